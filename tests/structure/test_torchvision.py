"""Every torchvision classifier: half its width, replayed, and equal to the silenced reference."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from support.proof import prove, share_kept

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed (the vision extra)")

ATTENTION = ("vit_", "swin_", "maxvit")
# Smallest of each kind run in every test run, the rest (same mechanisms, more of them) with the zoo.
EVERY_RUN = {
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0",
}  # fmt: skip
# What cannot be removed at half width, and why (see docs/coverage.md).
KEPT_AT_MOST = {
    "shufflenet_v2_x0_5": 0.5,
    "shufflenet_v2_x1_0": 0.6,
    "shufflenet_v2_x1_5": 0.6,
    "shufflenet_v2_x2_0": 0.6,
}


def names() -> list[object]:
    every = [n for n in torchvision.models.list_models(module=torchvision.models) if not n.startswith(ATTENTION)]
    return [n if n in EVERY_RUN else pytest.param(n, marks=pytest.mark.zoo) for n in every]


def build(name: str) -> nn.Module:
    """The architecture with random weights of a healthy scale, without its slow initialization."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for function in [f for f in vars(nn.init) if f.endswith("_")]:
            patch.setattr(nn.init, function, lambda tensor, *args, **kwargs: tensor)
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, **extra)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.mark.parametrize("name", names())
def test_half_of_it_computes_what_silencing_gives(name: str) -> None:
    model = build(name)
    size = 299 if name == "inception_v3" else 96
    inputs = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    structure, _, small = prove(model, inputs)
    assert not structure.unknown and not structure.repairs
    assert share_kept(small, model) < KEPT_AT_MOST.get(name, 0.45)
    torch.manual_seed(0)
    output = small.train()(inputs.double())
    total = output if isinstance(output, torch.Tensor) else sum(tensor.sum() for tensor in output)
    total.sum().backward()
    assert all(p.grad is not None for p in small.parameters())
