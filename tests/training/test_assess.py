"""Beyond accuracy: calibration, classes, agreement, corrupted images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene import artifact, cli, workflow
from reconvene.costs import Budget
from reconvene.data import Split, load_data
from reconvene.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt, corrupted
from reconvene.errors import ArtifactError, DataError, UnknownNameError
from reconvene.models import resolve_address
from reconvene.tasks.classification import Predictions, calibration_error
from reconvene.training import TrainConfig
from reconvene.training.assess import assess, compare_text, predict


class Fixed(nn.Module):
    """Says what it was told to say, image by image."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)
        self.at = 0

    def forward(self, x: Tensor) -> Tensor:
        out = self.logits[self.at : self.at + len(x)]
        self.at += len(x)
        return out


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=60)


def confident(classes: Tensor, share: float, count: int = 10) -> Tensor:
    """Logits whose softmax gives ``share`` to these classes."""
    rest = (1 - share) / (count - 1)
    return torch.full((len(classes), count), rest).scatter(1, classes[:, None], share).log()


def test_calibration_error_by_hand() -> None:
    right = torch.tensor([True, True, False, False])
    assert calibration_error(torch.tensor([0.5] * 4), right) == pytest.approx(0.0)
    assert calibration_error(torch.tensor([0.9] * 4), right) == pytest.approx(0.4)
    # two bins: half the images sure and right, half sure at 0.7 and wrong
    mixed = calibration_error(torch.tensor([1.0, 1.0, 0.7, 0.7]), right)
    assert mixed == pytest.approx(0.5 * 0.0 + 0.5 * 0.7)
    assert calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == 0.0


def test_everything_against_a_network_that_is_known(digits) -> None:
    labels = digits.test.targets
    said = labels.clone()
    threes = (labels == 3).nonzero().flatten()
    said[threes] = 4
    found = assess(Fixed(confident(said, 0.8)), digits, dense=Predictions(labels, torch.ones(len(labels))))
    wrong = len(threes) / len(labels)
    assert found.accuracy == pytest.approx(1 - wrong)
    assert found.agreement == pytest.approx(1 - wrong)
    assert (found.worst_class, found.worst_accuracy) == ("3", 0.0)
    assert (found.dropped_class, found.worst_drop) == ("3", 1.0)
    assert found.calibration_error == pytest.approx(abs(1 - wrong - 0.8), abs=1e-6)
    assert found.corruptions is None and found.corrupted is None


def test_a_network_agrees_with_itself_and_is_left_as_it_was(digits) -> None:
    model = resolve_address("resnet20", {"width": 0.25}).build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = assess(model, digits, dense=predict(model, digits))
    assert found.agreement == 1.0 and found.worst_drop == 0.0
    assert model.training and all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_with_strength_and_repeat(name: str, digits) -> None:
    images = digits.test.images[:20]
    away = []
    for strength in STRENGTHS:
        changed = corrupt(images, name, strength, seed=1)
        assert changed.shape == images.shape and changed.dtype == torch.uint8
        assert torch.equal(changed, corrupt(images, name, strength, seed=1))
        away.append(float((changed.float() - images.float()).abs().mean()))
    assert 0 < away[0] < away[1] < away[2]
    grey = corrupt(images[:, :1], name, 1, seed=1)
    assert grey.shape == (20, 1, 32, 32)


def test_noise_depends_on_the_seed_and_differs_between_images() -> None:
    flat = torch.full((1100, 3, 8, 8), 128, dtype=torch.uint8)
    first, other = corrupt(flat, "noise", 1, seed=0), corrupt(flat, "noise", 1, seed=1)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:100], first[1000:])
    assert float((first.float() - 128).std()) == pytest.approx(10, abs=0.2)
    assert torch.equal(corrupt(flat, "blur", 3), flat) and torch.equal(corrupt(flat, "contrast", 3), flat)


def test_what_cannot_be_corrupted_is_refused(digits) -> None:
    with pytest.raises(UnknownNameError, match="blur"):
        corrupt(digits.test.images, "fog", 1)
    with pytest.raises(DataError, match="strength 4"):
        corrupt(digits.test.images, "blur", 4)
    with pytest.raises(DataError, match="uint8"):
        corrupt(digits.test.images.float(), "blur", 1)


def test_corrupted_accuracy_is_the_mean_over_all_of_them(digits) -> None:
    model = resolve_address("resnet20", {"width": 0.25}).build()
    found = assess(model, digits, corruptions=True)
    assert found.corruptions is not None and set(found.corruptions) == set(CORRUPTIONS)
    every = [value for values in found.corruptions.values() for value in values]
    assert len(every) == 12 and found.corrupted == pytest.approx(sum(every) / 12)
    name, _, spoiled = next(iter(corrupted(digits)))
    assert found.corruptions[name][0] == assess(model, spoiled).accuracy
    assert "noise, strength 3" in compare_text({"dense": found})


def test_an_artifact_is_evaluated_beside_its_dense_network(
    tmp_path: Path, digits, capsys: pytest.CaptureFixture
) -> None:
    source = resolve_address("resnet20", {"width": 0.25, "num_classes": 10})
    workflow.prune_artifact(source, tmp_path, budget=Budget(params="2x"))
    with pytest.raises(ArtifactError, match="Train it first"):
        workflow.evaluate(tmp_path, digits)
    rc.save(artifact.dense(tmp_path), tmp_path / "dense")
    for place in (tmp_path / "dense", tmp_path):
        workflow.train(place, digits, epochs=1, config=TrainConfig(precision="fp32"))
    workflow.report(tmp_path, command="reconvene run it")
    assert cli.main(["evaluate", str(tmp_path), "--limit", "60", "--corruptions"]) == 0
    told = capsys.readouterr().out
    assert "agreement with dense" in told and "jpeg, strength 3" in told
    kept = artifact.Artifact.open(tmp_path).assessment
    assert list(kept) == ["dense", "pruned"] and kept["pruned"]["agreement"] is not None
    trained = artifact.Artifact.open(tmp_path).training.score
    assert kept["pruned"]["accuracy"] == pytest.approx(trained)
    # The images are normalised as in training, whatever part of them the statistics are of; other classes are refused.
    part = replace(digits, mean=tuple(2 * value for value in digits.mean), std=tuple(3 * value for value in digits.std))
    assert workflow.evaluate(tmp_path, part)["pruned"].accuracy == kept["pruned"]["accuracy"]
    with pytest.raises(DataError, match="is not what the model"):
        workflow.evaluate(tmp_path, replace(digits, classes=tuple(f"class {name}" for name in digits.classes)))
    page = (tmp_path / "report.html").read_text()
    assert "Beyond accuracy" in page and "reconvene run it" in page
    # Trained on, the network is another one: what was said of the old one goes.
    workflow.train(tmp_path, digits, epochs=1, config=TrainConfig(precision="fp32"), again=True)
    assert not artifact.Artifact.open(tmp_path).assessment


def test_a_split_without_images_is_refused(digits) -> None:
    empty = replace(digits, test=Split(digits.test.images[:0], digits.test.targets[:0]))
    with pytest.raises(rc.ReconveneError, match="no test images"):
        assess(resolve_address("resnet20", {"width": 0.25}).build(), empty)
