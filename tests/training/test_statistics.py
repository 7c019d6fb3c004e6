"""Norm statistics that lag behind the weights are measured and taken anew, and nothing else changes; warnings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reconvene.data import Dataset, Split
from reconvene.errors import TrainingError
from reconvene.tasks.classification import warning
from reconvene.training import TrainConfig, evaluate_split, read_log, train_model
from reconvene.training import run as run_module
from reconvene.training.assess import assess, compare_text
from reconvene.training.parallel import World
from reconvene.training.statistics import lagging_norms, refresh_statistics
from support.cli_calls import answer

CONFIG = TrainConfig(batch_size=32, device="cpu", precision="fp32", augment="none")


def stripes(count: int = 256) -> Dataset:
    """Four classes, told by which quarter of the image is bright."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    for row, label in enumerate(labels.tolist()):
        images[row, :, :, 2 * label : 2 * label + 2] += 100
    classes = ("a", "b", "c", "d")
    return Dataset("stripes", Split(images, labels), Split(images[:64], labels[:64]), classes, (0.4,), (0.25,))


def network(momentum: float | None) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for into in (1, 8, 8):
        # So small before the norm that with the initial variance of 1 next to nothing comes through.
        convolution = nn.Conv2d(into, 8, 3, padding=1, bias=False)
        nn.init.normal_(convolution.weight, 0, 0.003)
        layers += [convolution, nn.BatchNorm2d(8, momentum=momentum), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 4))


def trained(momentum: float | None, folder: Path, *, epochs: int = 6, images: int = 256) -> tuple[nn.Module, Any]:
    model = network(momentum)
    return model, train_model(model, stripes(images), epochs=epochs, directory=folder, config=CONFIG)


@pytest.mark.parametrize("momentum", [0.003, 0.01])
def test_a_network_whose_statistics_lag_is_recalibrated_and_the_log_says_so(
    momentum: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, result = trained(momentum, tmp_path / "a")
    assert result.score > 0.9 and evaluate_split(model, stripes()).accuracy == result.score
    recalibrations = [record["recalibration"] for record in read_log(tmp_path / "a")[1:]]
    assert recalibrations[0] and recalibrations[-1] == result.recalibration
    facts = recalibrations[0]
    assert facts["layers"] == 3 and facts["images"] == 256 and facts["seconds"] >= 0
    assert facts["loss_after"] < facts["loss_before"] - 0.1
    assert [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == [momentum] * 3
    monkeypatch.setattr(run_module, "refresh_statistics", lambda *_, **__: None)
    _, without = trained(momentum, tmp_path / "b")
    assert without.evaluation.loss > result.evaluation.loss + 0.1, "what is mended is there"


def test_usual_networks_keep_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's momentum of 0.1, and 48 steps in the first epoch, nothing is even measured."""
    model, result = trained(0.1, tmp_path / "a", epochs=2, images=1536)
    assert result.recalibration is None
    monkeypatch.setattr(run_module, "refresh_statistics", lambda *_, **__: None)
    plain, _ = trained(0.1, tmp_path / "b", epochs=2, images=1536)
    for (name, one), other in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_suspects_that_do_not_lag_keep_every_byte() -> None:
    """A small momentum alone is no reason: here the statistics are those of the data."""
    model, data = network(0.01), stripes()
    batches = [(data.normalise(data.train.images), data.train.targets)]
    with torch.no_grad():
        for norm in lagging_norms(model, steps=1000):
            norm.momentum = None
        model.train()(batches[0][0])
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 0.01
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    assert len(lagging_norms(model, steps=1000)) == 3
    assert refresh_statistics(model, data.task, batches, steps=1000, batch_size=256, world=World()) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(
    ("momentum", "steps", "suspect"), [(0.1, 44, False), (0.1, 43, True), (0.09, 10**6, True), (None, 10**6, True)]
)
def test_which_norms_are_suspects(momentum: float | None, steps: int, suspect: bool) -> None:
    norms = nn.Sequential(
        nn.BatchNorm2d(2, momentum=momentum),
        nn.BatchNorm2d(2, momentum=momentum, track_running_stats=False),
        nn.InstanceNorm2d(2, momentum=momentum or 0.01, track_running_stats=True),
        nn.LayerNorm(2),
    )
    assert (norms[0] in lagging_norms(norms, steps=steps)) == suspect
    assert norms[1] not in lagging_norms(norms, steps=steps) and norms[3] not in lagging_norms(norms, steps=steps)


def test_statistics_that_are_not_finite_are_taken_anew() -> None:
    model, data = network(0.01), stripes()
    model[1].running_var.fill_(float("nan"))
    batches = [(data.normalise(data.train.images), data.train.targets)]
    done = refresh_statistics(model, data.task, batches, steps=9, batch_size=256, world=World())
    assert done is not None and done.loss_before is None and bool(model[1].running_var.isfinite().all())


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_that_was_stopped_recalibrates_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    whole, _ = trained(0.003, tmp_path / "a", epochs=4)
    real, calls = run_module.refresh_statistics, []

    def stop(*given: Any, **options: Any) -> Any:
        calls.append(1)
        done = real(*given, **options)
        if len(calls) == epoch:
            raise TrainingError("stopped after the statistics were changed, before they were saved")
        return done

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "refresh_statistics", stop)
        with pytest.raises(TrainingError, match="stopped"):
            trained(0.003, tmp_path / "b", epochs=4)
    again, result = trained(0.003, tmp_path / "b", epochs=4)
    assert result.resumed_at == (epoch - 1) * 8
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


class Constant(nn.Module):
    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores.expand(len(x), -1)


def test_a_network_that_answers_one_class_is_warned_of() -> None:
    found = evaluate_split(Constant([0.0, 1.0, 0.0, 0.0]), stripes())
    assert found.predicted == 1 and found.chance == 0.25
    assert found.warning is not None and "1 distinct class predicted for 64 images" in found.warning
    assessed = assess(Constant([0.0, 1.0, 0.0, 0.0]), stripes())
    assert assessed.predicted == 1 and assessed.warning == found.warning
    assert f"warning: dense: {found.warning}" in compare_text({"dense": assessed})


@pytest.mark.parametrize(
    ("accuracy", "predicted", "chance", "warned"),
    [(0.0975, 3, 0.1, "at chance"), (0.12, 3, 0.1, None), (0.95, 4, 0.25, None), (1.0, 1, 1.0, None)],
)
def test_what_is_warned_of(accuracy: float, predicted: int, chance: float, warned: str | None) -> None:
    text = warning(accuracy, predicted, chance, 10_000)
    assert (text is None) if warned is None else (text is not None and warned in text and "3 distinct" in text)


@pytest.mark.slow
def test_the_commands_warn(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from reconvene import artifact
    from reconvene.cli import main
    from reconvene.models import ModelSource

    source = ModelSource("resnet20", {"width": 0.5}, (3, 32, 32))
    artifact.save(source.build(), tmp_path / "a")
    options = ["--data", "digits", "--epochs", "1", "--lr", "1e-9"]
    done = answer(capfd, "train", str(tmp_path / "a"), *options)
    assert done["warning"] is not None and "distinct class" in done["warning"]
    assert main(["train", str(tmp_path / "a"), *options]) == 0
    assert f"warning: {done['warning']}" in capfd.readouterr().out
    assert answer(capfd, "export", str(tmp_path / "a"))["warnings"] == {"dense": done["warning"]}
    assessed = answer(capfd, "evaluate", str(tmp_path / "a"), "--data", "digits")
    assert assessed["variants"]["dense"]["warning"] is not None
