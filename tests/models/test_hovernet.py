"""HoVer-Net: one encoder, three decoders that add its skips; pruned alike in all of them, trained on objects."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import reconvene as rc
from reconvene.artifact import Artifact
from reconvene.cli import main
from reconvene.models import MODELS
from reconvene.models.hovernet import HoVerNet
from reconvene.training import TrainConfig, train_model
from support.cli_calls import answer
from support.paths import SHARED
from support.segments import discs

SIZES = {"np": 2, "hv": 2, "tp": 6}


def small(outputs: int = 10, channels: int = 3, width: float = 1 / 16) -> HoVerNet:
    torch.manual_seed(0)
    return HoVerNet(outputs, channels, width)


def disturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Statistics and scales that no channel shares with another, so that a wrong channel shows."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.2, generator=generator)
    return model.eval()


def test_it_has_the_published_size_and_three_outputs_as_large_as_the_input() -> None:
    with torch.device("meta"):
        model = MODELS["hovernet"]()
        outputs = model(torch.randn(1, 3, 256, 256))
    assert sum(p.numel() for p in model.parameters()) == 37_639_626
    assert {name: tuple(tensor.shape) for name, tensor in outputs.items()} == {
        name: (1, channels, 256, 256) for name, channels in SIZES.items()
    }
    assert list(small(4)(torch.randn(1, 3, 32, 32))) == ["np", "hv"], "without types there is no third output"
    with pytest.raises(ValueError, match="4 at least"):
        small(3)


def test_groups_span_the_encoder_and_all_three_decoders() -> None:
    """A skip is added in every decoder, so its channels leave the encoder and all of them together."""
    model, x = small(), torch.randn(1, 3, 32, 32)
    rooms = ("encoder.", *(f"decoders.{branch}." for branch in SIZES))
    spanning = [
        group
        for group in rc.groups(model, x)
        if group.prunable and all(any(name.startswith(room) for name in group.parameters) for room in rooms)
    ]
    assert len(spanning) >= 3


@pytest.mark.parametrize("budget", ["2x", "10x"])
def test_shrunk_is_silenced_on_all_three_outputs(budget: str) -> None:
    model, x = disturbed(small()), torch.randn(2, 3, 32, 32)
    plan = rc.plan(model, x, rc.Budget(params=budget), round_to=1)
    shrunk, silenced = plan.apply(model).eval(), plan.mask(model).eval()
    with torch.no_grad():
        a, b = shrunk(x), silenced(x)
    assert set(a) == set(b) == set(SIZES)
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-4, atol=1e-4)
        assert value.std() > 1e-3
    assert plan.costs["pruned"]["params"] <= plan.limits["params"]


@pytest.mark.slow
def test_it_learns_to_separate_objects(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    data = discs(60, "instances-hv")
    config = TrainConfig(batch_size=8, precision="fp32", device="cpu", lr=0.1)
    result = train_model(small(data.outputs, 1, width=1 / 8), data, epochs=10, directory=tmp_path, config=config)
    assert result.evaluation.metrics["dice"] > 0.8 and result.score > 0.1


@pytest.mark.slow
def test_a_plan_at_256_pixels_takes_less_than_a_minute() -> None:
    model = MODELS["hovernet"]()
    began = time.process_time()
    plan = rc.plan(model, torch.randn(1, 3, 256, 256), rc.Budget(params="10x"))
    assert time.process_time() - began < 60 and plan.costs["pruned"]["params"] <= plan.limits["params"]


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "nuclei").is_dir(), reason="no data on nuclei beside the checkout")
def test_crops_of_nuclei_in_two_steps_to_a_tenth_of_the_parameters(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage")
    data = ["--data", str(SHARED / "data" / "nuclei"), "--limit", "16"]
    network = ["hovernet", "--model-arg", "width=0.125", "--task", "instances-hv", "--input", "3x64x64"]
    assert main(["train", *network, *data, "--epochs", "1", "-o", str(tmp_path / "dense")]) == 0
    steps = ["--trained", "--criterion", "l2", "--params", "10x", "--steps", "2", "--epochs", "1"]
    pruned = answer(capfd, "prune", str(tmp_path / "dense"), *steps, *data, "-o", str(tmp_path / "out"))
    assert pruned["costs"]["pruned"]["params"] <= pruned["costs"]["dense"]["params"] / 10
    curve = Artifact.open(tmp_path / "out").curve
    assert curve is not None and len(curve.steps) == 2
    outputs = rc.load(tmp_path / "out").eval()(torch.randn(1, 3, 64, 64))
    assert {name: value.shape[1] for name, value in outputs.items()} == {"np": 2, "hv": 2}
