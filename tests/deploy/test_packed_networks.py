"""Files with the bits of plans on networks of many kinds: widths, random interleaved bits, attention, bytes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.errors import BudgetError
from reconvene.models import resolve_address
from reconvene.quantiser import quantise
from reconvene.surgery.bits import BitPlan, LayerBits
from support.mini_resnet import mini_resnet
from support.paths import ROOT

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from reconvene.deploy.on_device.unpack import unpack_weights  # noqa: E402  # needs onnx


class SelfAttention(nn.Module):
    """A block of a transformer, whose three projections stand in one weight."""

    def __init__(self, rows: int = 6) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(torch.relu(self.up(self.second(x))))
        return self.head(x.mean(1))


class CrossAttention(nn.Module):
    """Queries of one sequence, keys and values of another: the file has the projections in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(16, 16), nn.Linear(16, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up, self.head = nn.Linear(16, 20), nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.relu(self.left(x)), torch.relu(self.right(x.flip(1)))
        return self.head(torch.relu(self.up(self.attention(left, right, right, need_weights=False)[0]).mean(1)))


class Dense(nn.Module):
    """Every layer reads what all layers before it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 6 * i, 6, 3, padding=1) for i in range(4))
        self.norm, self.head = nn.BatchNorm2d(27), nn.Linear(27, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], dim=1)
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))


class Excited(nn.Module):
    """A grouped and a depthwise convolution, and a gate behind a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.grouped = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(16))
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.squeeze, self.excite, self.head = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 16, 1), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.deep(torch.relu(self.grouped(x) + x))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(x.mean((2, 3)))


class UpDown(nn.Module):
    """A small U: a transposed convolution, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.up, self.out = nn.ConvTranspose2d(12, 8, 2, stride=2), nn.Conv2d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = torch.relu(self.down(x))
        return self.out(torch.cat([torch.relu(self.up(torch.relu(self.low(high)))), high], dim=1))


def ours(name: str, **arguments: object) -> nn.Module:
    return resolve_address(name, {"num_classes": 4, **arguments}).build()


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


IMAGE, WIDE = (3, 16, 16), (3, 32, 32)
NETS = {
    "self-attention": (SelfAttention, (6, 16)),
    "cross-attention": (CrossAttention, (6, 16)),
    "dense": (Dense, (3, 8, 8)),
    "excited": (Excited, IMAGE),
    "transposed": (UpDown, IMAGE),
    "residual": (lambda: mini_resnet((8, 12, 16)), IMAGE),
    "resnet20": (lambda: ours("resnet20", width=0.5), WIDE),
    "resnet32": (lambda: ours("resnet32", width=0.25), WIDE),
    "resnet18": (lambda: ours("resnet18", width=0.125), WIDE),
    "vgg16": (lambda: ours("vgg16_bn", width=0.125), WIDE),
    "mobilenetv2": (lambda: ours("mobilenetv2", width=0.25), WIDE),
    "unet": (lambda: ours("unet", width=0.125), WIDE),
    "resnext": (lambda: ours("torchvision:resnext50_32x4d"), (3, 32, 32)),
    "densenet": (lambda: ours("torchvision:densenet121"), (3, 32, 32)),
    "shufflenet": (lambda: ours("torchvision:shufflenet_v2_x0_5"), (3, 64, 64)),
    "squeezenet": (lambda: ours("torchvision:squeezenet1_1"), (3, 64, 64)),
    "mobilenetv3": (lambda: ours("torchvision:mobilenet_v3_small"), (3, 32, 32)),
    "googlenet": (lambda: ours("torchvision:googlenet", init_weights=False, aux_logits=False), (3, 64, 64)),
    "rows": (lambda: chain(nn.Conv1d(3, 9, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)), (3, 20)),
    "shuffled": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.ChannelShuffle(2), nn.Conv2d(8, 4, 1), nn.Flatten()),
        (3, 8, 8),
    ),
}
QUICK = ("self-attention", "cross-attention", "dense", "excited")


def with_random_bits(name: str, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """A pruned network whose channels have bits at random: zero bits are the channels that left."""
    build, shape = NETS[name]
    torch.manual_seed(seed)
    model, images = build().eval(), torch.randn(12, *shape)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as trained networks have them, some turn the sign
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(-1, 1.5, generator=generator)
    plan = rc.plan(
        model,
        images[:1],
        rc.Budget(size="2.2x" if "attention" in name else "6x"),
        bits=(0, 2, 4, 8),
        verify=name in QUICK,
    )
    draw = np.random.default_rng(seed)
    bits = {n: LayerBits.of(of.axis, draw.choice([2, 4, 8], len(of.bits))) for n, of in plan.bits.layers.items()}
    plan = replace(plan, bits=BitPlan(bits))
    return plan.apply(model), images


def export(small: nn.Module, folder: Path, images: torch.Tensor) -> Path:
    """The file. Its weights are compared with the rounded network's within 1e-4 in ONNX Runtime before it is moved."""
    limits = rc.deploy.Limits(sqnr=5)
    return rc.export(
        small,
        folder,
        quantize="plan",
        calibration=[images],
        example_inputs=images[:1],
        task="regression",
        limits=limits,
    ).path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NETS]
)
def test_random_bits_of_every_channel_are_in_the_file(name: str, tmp_path: Path) -> None:
    small, images = with_random_bits(name, 1)
    path = export(small, tmp_path, images)
    plan, parameters = small.reconvene_plan.bits.layers, dict(small.named_parameters())
    unpacked = list(unpack_weights(str(path)))
    counted = Counter(int(b) for _, bits in unpacked for b in bits)
    assert counted == Counter(int(b) for of in plan.values() for b in of.bits)
    # Every integer of the network is in the file: per channel the magnitudes, since norms turn signs.
    rows = Counter(abs_row(row) for integers, _ in unpacked for row in integers)
    for weight, of in plan.items():
        integers = quantise(parameters[weight], of.bits, axis=of.axis).integers.movedim(of.axis, 0).numpy()
        for row in integers:
            rows[abs_row(row)] -= 1
    assert not any(rows.values())


def abs_row(row: np.ndarray) -> bytes:
    """A channel as sorted magnitudes: a product on the right has its weight turned."""
    return np.sort(np.abs(np.asarray(row, dtype=np.int8)).reshape(-1)).tobytes()


def test_the_page_shows_the_program_of_bundles() -> None:
    page = (ROOT / "docs" / "bits.md").read_text(encoding="utf-8")
    program = (ROOT / "src/reconvene/deploy/on_device/unpack.py").read_text(encoding="utf-8")
    shown = [
        block for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "def unpack_weights" in block
    ]
    assert len(shown) == 1 and program.endswith(shown[0]) and len(shown[0].splitlines()) <= 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_random_budgets_are_kept_by_the_files_themselves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = mini_resnet().eval(), torch.randn(24, 3, 32, 32)
    data, draw = [(images, torch.randint(0, 10, (24,)))], np.random.default_rng(0)
    layers = 8
    for size in np.exp(draw.uniform(np.log(4_000), np.log(70_000), 100)).astype(int):
        plan = rc.plan(model, images[:1], rc.Budget(size=int(size)), bits=(0, 2, 4, 8), trained=True, data=data)
        file = export(plan.apply(model), tmp_path, images).stat().st_size
        assert 0.95 * size <= plan.costs["pruned"]["size"] <= size
        assert plan.costs["pruned"]["size"] < file <= size * 1.05 + 3000 + 120 * layers
    with pytest.raises(BudgetError, match="with the fewest channels and bits it is"):
        rc.plan(model, images[:1], rc.Budget(size=100), bits=(0, 2, 4, 8))
