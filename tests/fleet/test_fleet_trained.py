"""Fleets of trained networks: weights are kept, repaired, judged beside the dense network, and tuned if asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import reconvene as rc
from reconvene.artifact import Artifact
from reconvene.data import load_data
from reconvene.errors import FleetError
from reconvene.fleet import Result, read_fleet, run_fleet, write_page
from reconvene.fleet.assignments import assignments_of
from reconvene.fleet.landing import is_complete
from reconvene.fleet.networks import data_choice
from reconvene.models import ModelSource
from reconvene.training import TrainConfig

SOURCE = ModelSource("resnet20", {"width": 0.25}, (3, 32, 32))
FILE = """\
models: [dense]
trained: true
data: digits
limit: 200
keep: [classifier]
export: [onnx]
int8: {min_agreement: 0.5, max_accuracy_drop: 0.3, calibration_samples: 40, keep_fp32: [classifier]}
devices:
  phone: {macs: 1.5x}
  board: {params: 2x, precision: int8}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained artifact, and its weights in a file."""
    folder = tmp_path_factory.mktemp("trained")
    network = SOURCE.build()
    rc.save(network, folder / "dense", source=SOURCE)
    rc.train(folder / "dense", load_data("digits", limit=200), epochs=3, config=TrainConfig(lr=0.05))
    safetensors.torch.save_file(rc.load(folder / "dense").state_dict(), folder / "weights.safetensors")
    return folder


def fleet_file(folder: Path, text: str = FILE) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def made(trained: Path) -> tuple[Path, Result]:
    return trained / "out", run_fleet(read_fleet(fleet_file(trained)), trained / "out", workers=1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return rc.load(folder).state_dict()


def test_weights_are_kept_and_the_dense_network_lies_beside(trained: Path, made: tuple[Path, Result]) -> None:
    out, result = made
    dense = weights(trained / "dense")
    for row in result.rows:
        folder = out / row.folder
        assert not row.trouble, row.trouble
        assert row.folder == f"{row.device}/dense"
        assert all(row.costs[cost] <= limit for cost, limit in row.limits.items())
        stored = Artifact.open(folder)
        assert stored.pruning is not None and stored.pruning.trained and stored.pruning.rectify == "reconstruct"
        assert stored.pruning.criterion == "taylor" and stored.pruning.keep == ("classifier",)
        assert all(torch.equal(tensor, dense[name]) for name, tensor in weights(folder / "dense").items())
        small = weights(folder)
        assert torch.equal(small["classifier.weight"], dense["classifier.weight"]), "kept as asked"
        assert stored.plan is not None
        sliced = stored.plan.apply(rc.load(trained / "dense")).state_dict()
        first = next(name for name in sliced if name.startswith("stem"))
        assert torch.equal(small[first], sliced[first]), "the first layer reads whole images: nothing to repair"


def test_cuts_are_judged_beside_the_dense_network(trained: Path, made: tuple[Path, Result]) -> None:
    out, result = made
    judged = rc.evaluate(trained / "dense", load_data("digits", limit=200))["dense"].score
    for row in result.rows:
        as_cut = Artifact.open(out / row.folder).as_cut
        assert as_cut is not None and row.score == as_cut.scores["pruned"] and row.task == "classification"
        assert row.dense_score == pytest.approx(judged)
        assert f"(dense {100 * judged:.2f}%)" in str(result)
    write_page(result)
    assert "(dense " in (out / "index.html").read_text()
    [int8] = Artifact.open(out / "board/dense").exports
    assert int8.precision == "int8" and int8.keep_fp32 == ("classifier",)


def test_the_same_file_makes_nothing_and_new_weights_make_all_again(trained: Path, made: tuple[Path, Result]) -> None:
    path = fleet_file(trained)
    rc.evaluate(trained / "dense", load_data("digits", limit=200))  # which is no other network
    assert run_fleet(read_fleet(path), trained / "out", workers=1).written == 0
    before = [place.key for place in assignments_of(read_fleet(path), allow_import=False)]
    other = fleet_file(trained, FILE.replace("[dense]", "[longer/dense]"))
    shutil.copytree(trained / "dense", trained / "longer" / "dense")
    rc.train(trained / "longer" / "dense", load_data("digits", limit=200), epochs=1, again=True)
    after = [place.key for place in assignments_of(read_fleet(other), allow_import=False)]
    assert not set(before) & set(after)


@pytest.mark.parametrize("name", ["model.safetensors", "reconvene.json"])
def test_a_damaged_dense_network_is_made_again(made: tuple[Path, Result], name: str) -> None:
    out, result = made
    row = result.rows[0]
    file = out / row.folder / "dense" / name
    content = file.read_bytes()
    assert is_complete(out / row.folder, row.key)
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert not is_complete(out / row.folder, row.key)
    file.unlink()
    assert not is_complete(out / row.folder, row.key)
    file.write_bytes(content)


def test_a_file_of_weights_and_training_at_the_end_of_the_schedule(trained: Path, tmp_path: Path) -> None:
    text = FILE.replace("[dense]", "[resnet20]\nargs: {width: 0.25}").replace(
        "export: [onnx]\n", "train: {epochs: 1}\n"
    )
    text = text.replace("  board: {params: 2x, precision: int8}\n", "").replace("keep: [classifier]\n", "")
    text = text[: text.index("int8:")] + text[text.index("devices:") :]
    path = fleet_file(trained, text.replace("limit", "weights: {resnet20: weights.safetensors}\nlimit"))
    [row] = run_fleet(read_fleet(path), tmp_path / "out", workers=1).rows
    stored = Artifact.open(tmp_path / "out" / row.folder)
    assert row.folder == "phone/resnet20" and stored.training is not None
    assert stored.training.asked["tail"] == 0.25 and stored.training.epochs == 1
    assert row.score == stored.training.score and row.dense_score is not None
    assert Artifact.open(tmp_path / "out" / row.folder / "dense").weights_from == "weights.safetensors"


def test_published_weights_read_images_as_they_were_trained_on(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconvene.fleet import networks

    monkeypatch.setattr(networks, "pretrained_file", lambda address: trained / "weights.safetensors")
    text = FILE.replace("[dense]", "[torchvision:resnet18]\nweights: {torchvision:resnet18: pretrained}")
    fleet = read_fleet(fleet_file(trained, text))
    choice = data_choice(fleet, "torchvision:resnet18", SOURCE)
    assert choice.mean == (0.485, 0.456, 0.406) and choice.std == (0.229, 0.224, 0.225)
    [place, _] = assignments_of(fleet, allow_import=False)
    assert place.origin.weights == trained / "weights.safetensors" and place.options["mean"] == choice.mean


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("trained: true\n", "", r"line 1: dense is an artifact\. trained: true"),
        ("data: digits\n", "", r"line 2: trained networks .* name them with data"),
        ("[dense]", "[resnet20]", r"line 1: resnet20 has no trained weights\. Name the folder"),
        ("[dense]", "[dance]", r"line 1: .*'dance'.* There is no artifact in .*dance either"),
        ("[dense]", "[fresh]", r"line 1: fresh is not trained yet: reconvene train fresh"),
        ("[dense]", "[small]", r"line 1: small was pruned already\. Name the dense network"),
        ("[dense]", "[dense, other/dense]", r"line 1: two models have results in a folder .dense."),
        ("limit: 200", "weights: {dense: x.pt}", r"line 4: weights of dense: it is an artifact and has weights"),
        ("limit: 200", "weights: {vgg: x.pt}", r"line 4: weights of vgg: it is none of dense"),
        ("[dense]", "[resnet20]\nweights: {resnet20: x.pt}", r"line 2: there is no file .*x\.pt"),
        ("[dense]", "[resnet20]\nweights: {resnet20: pretrained}", r"line 2: resnet20 has no published weights"),
        ("trained: true", "weights: {resnet20: x.pt}", r"line 1: dense is an artifact"),
        (", precision: int8", "", r"line 7: no device runs int8"),
        ("min_agreement: 0.5", "min_agreement: 1.5", r"line 7: int8\.min_agreement: expected at most 1"),
        (
            "calibration_samples: 40",
            "calibration_samples: 0",
            r"line 7: int8\.calibration_samples: expected at least 1",
        ),
        ("min_agreement", "min_agreemint", r"line 7: int8 has no 'min_agreemint'. Did you mean 'min_agreement'"),
    ],
)
def test_errors_name_the_line(trained: Path, old: str, new: str, why: str) -> None:
    network = SOURCE.build()
    rc.save(network, trained / "fresh", source=SOURCE)
    if not (trained / "small").exists():
        dense = rc.load(trained / "dense")
        rc.save(rc.prune(dense, torch.randn(1, 3, 32, 32), rc.Budget(params="2x"), trained=True), trained / "small")
        (trained / "other").mkdir()
        (trained / "other" / "dense").symlink_to(trained / "dense")
    with pytest.raises(FleetError, match=why):
        read_fleet(fleet_file(trained, FILE.replace(old, new)))


def test_weights_and_limits_that_say_nothing_are_refused(tmp_path: Path) -> None:
    plain = "models: [resnet20]\n{}\ndevices:\n  phone: {{params: 2x, precision: int8, export: [onnx]}}\n"
    for line, why in (
        ("weights: {resnet20: x.pt}", r"line 2: weights are kept with trained: true only"),
        ("int8: {min_agreement: 0.9}", r"line 2: min_agreement is about trained networks, and nothing is trained"),
    ):
        with pytest.raises(FleetError, match=why):
            read_fleet(fleet_file(tmp_path, plain.format(line)))
    assert read_fleet(fleet_file(tmp_path, plain.format("int8: {calibration_samples: 8}"))).int8 is not None


def test_networks_of_different_tasks_need_a_fleet_each(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconvene.fleet import networks

    tasks = iter(["classification", "segmentation"])
    monkeypatch.setattr(networks, "recorded_task", lambda base: next(tasks))
    (trained / "twin").symlink_to(trained / "dense")
    monkeypatch.setattr(Path, "resolve", lambda self, strict=False: self.absolute())
    with pytest.raises(FleetError, match=r"line 1: these .* different tasks \(dense classification, twin seg"):
        read_fleet(fleet_file(trained, FILE.replace("[dense]", "[dense, twin]")))
