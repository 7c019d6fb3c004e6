"""Networks that nobody analysed: every batch of ours begins afresh, and training goes through no earlier batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reconvene.costs.synops import count_synops
from reconvene.data import Dataset, Split, load_data
from reconvene.data.trial import try_model
from reconvene.safety import Attack
from reconvene.safety.judge import answers_of
from reconvene.structure.state import known_state
from reconvene.training import Distillation, TrainConfig, evaluate_split, train_model
from reconvene.training.assess import predict
from support.state_nets import BroadcastMembrane, Cache, NoneMembrane

CONFIG = TrainConfig(augment="none", batch_size=16)


class Carry(nn.Module):
    """Three calls of a neuron that carries its membrane into the next batch."""

    def __init__(self, neuron: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.into, self.fire, self.out = nn.Linear(64, 12), neuron(), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(())
        for _ in range(3):
            total = total + self.out(self.fire(self.into(x.flatten(1))))
        return total


def carry(neuron: Callable[[], nn.Module] = NoneMembrane) -> Carry:
    torch.manual_seed(0)
    return Carry(neuron).eval()


def few() -> Dataset:
    data = load_data("digits", input_shape=(1, 8, 8))
    parts = [Split(part.images[:32], part.targets[:32]) for part in (data.train, data.test)]
    return replace(data, train=parts[0], test=parts[1])


def fresh_outputs(data: Dataset, neuron: Callable[[], nn.Module]) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(carry(neuron)(data.normalise(data.test.images)))


def used(neuron: Callable[[], nn.Module]) -> nn.Module:
    """A copy of a network that was run on a batch of the size that it meets next."""
    model = carry(neuron)
    with torch.no_grad():
        model(torch.rand(8, 64))
    return copy.deepcopy(model)


@pytest.mark.parametrize("neuron", [NoneMembrane, BroadcastMembrane, Cache])
def test_batches_of_an_unknown_network_begin_afresh(neuron: Callable[[], nn.Module]) -> None:
    data = few()
    expected = fresh_outputs(data, neuron)
    for cut, whole in zip(predict(used(neuron), data, batch_size=8), predict(carry(neuron), data), strict=True):
        assert torch.allclose(cut.float(), whole.float(), atol=1e-5)
    assert torch.allclose(answers_of(used(neuron), data)(data.test.images), expected, atol=1e-5)
    loss = nn.functional.cross_entropy(expected, data.test.targets)
    assert evaluate_split(used(neuron), data, batch_size=8).loss == pytest.approx(float(loss), abs=1e-4)
    try_model(used(neuron), data)  # two images, behind a batch of eight


def test_attacks_on_an_unknown_network_go_through_no_earlier_step() -> None:
    data = few()
    images, labels = data.test.images[:8], data.test.targets[:8]
    attack = Attack(steps=3, strength=8)
    first = attack.images(used(NoneMembrane), images, labels, data, seed=0)
    assert torch.equal(first, attack.images(carry(), images, labels, data, seed=0))


def test_an_unknown_network_is_trained_with_and_without_a_teacher(tmp_path: Path) -> None:
    data = few()
    for name, teacher in (("alone", None), ("taught", Distillation(used(NoneMembrane)))):
        result = train_model(carry(), data, epochs=2, directory=tmp_path / name, config=CONFIG, **_taught_by(teacher))
        assert len(result.records) == 3


def _taught_by(teacher: Distillation | None) -> dict[str, Any]:
    return {} if teacher is None else {"distillation": teacher}


def test_operations_are_counted_afresh_without_example_inputs() -> None:
    batches = list(torch.rand(4, 8, 64, generator=torch.Generator().manual_seed(0)))
    whole = count_synops(carry(), [torch.cat(batches)])
    cut = count_synops(used(NoneMembrane), batches)
    assert cut.ac == pytest.approx(whole.ac) and cut.mac == pytest.approx(whole.mac)


class PartlyScripted(nn.Module):
    """It runs, but cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.scripted = nn.Linear(64, 12), torch.jit.script(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.scripted(self.into(x)))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")
def test_a_network_that_cannot_be_recorded_is_recorded_once_for_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from reconvene.structure import fresh

    asked: list[int] = []
    settle_state = fresh.settle_state
    monkeypatch.setattr(fresh, "settle_state", lambda model, inputs: (asked.append(1), settle_state(model, inputs)))
    counted = count_synops(PartlyScripted(), list(torch.rand(5, 2, 64) + 0.1))
    assert counted.mac == pytest.approx(64 * 12) and len(asked) == 1


def test_wrong_inputs_do_not_hide_the_state_of_a_network() -> None:
    from reconvene.structure.fresh import call_afresh, know_state

    model = used(NoneMembrane)
    know_state(model, torch.rand(2, 63))
    call_afresh(model, torch.rand(2, 64))
    assert known_state(model)


def test_a_network_that_cannot_be_recorded_is_run_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from reconvene.structure import fresh

    asked: list[nn.Module] = []
    monkeypatch.setattr(fresh, "settle_state", lambda model, inputs: asked.append(model))
    model = carry()
    for _ in range(2):
        fresh.call_afresh(model, torch.rand(2, 64))
    assert asked == [model] and known_state(model) == ()
