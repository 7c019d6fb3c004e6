"""``reconvene prune --trained``: weights come from an artifact or a file, are kept, and arrive in the new artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import reconvene as rc
from reconvene import artifact
from reconvene.cli import main
from reconvene.data import Normalisation
from reconvene.models import ModelSource
from reconvene.training import TrainConfig
from reconvene.workflow import usual_recipe
from reconvene.workflow.report import report, scores
from support.cli_calls import answer, trouble

SOURCE = ModelSource("resnet20", {"num_classes": 10, "width": 0.5, "in_channels": 1}, (1, 8, 8), 3)
MODEL = ["resnet20", *(f"--model-arg={name}={value}" for name, value in SOURCE.args.items()), "--input", "1x8x8"]


def network() -> nn.Module:
    """A network with statistics that have moved, as training leaves it."""
    net = SOURCE.build()
    torch.manual_seed(0)
    for _ in range(3):
        net(torch.rand(16, 1, 8, 8))
    return net


def write_masks(folder: Path) -> None:
    """Eight images with a square each, and its mask."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(8):
        mask = torch.zeros(16, 16, dtype=torch.uint8)
        mask[number : number + 6, 3:9] = 1
        image = (mask * 150)[..., None].expand(16, 16, 3).contiguous()
        Image.fromarray(image.numpy()).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask.numpy()).save(folder / "masks" / f"{number}.png")


def kept_slices(small: nn.Module, net: nn.Module) -> bool:
    sliced = small.reconvene_plan.apply(net)
    return all(torch.equal(a, b) for a, b in zip(sliced.parameters(), small.parameters(), strict=True))


def test_an_artifact_is_pruned_again_and_again_as_one_plan(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    net = network()
    rc.save(net, tmp_path / "dense")
    said = answer(capfd, "prune", str(tmp_path / "dense"), "--trained", "--macs", "2x", "-o", str(tmp_path / "half"))
    assert said["criterion"] == "group_l2" and said["rectify"] == "keep" and said["trained"] is True
    half = rc.load(tmp_path / "half")
    assert kept_slices(half, net)
    again = answer(capfd, "prune", str(tmp_path / "half"), "--trained", "--macs", "2x", "-o", str(tmp_path / "quarter"))
    quarter = rc.load(tmp_path / "quarter")
    assert kept_slices(quarter, net)
    assert again["costs"]["pruned"]["macs"] <= said["costs"]["pruned"]["macs"] / 2
    assert again["costs"]["dense"] == said["costs"]["dense"]
    assert artifact.Artifact.open(tmp_path / "quarter").pruning.trained is True


def test_data_choose_and_repair(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    net = network()
    rc.save(net, tmp_path / "dense")
    said = answer(
        capfd, "prune", str(tmp_path / "dense"), "--trained", "--data", "digits", "--limit", "300",
        "--params", "2x", "--keep", "classifier", "--keep", "stem.*", "-o", str(tmp_path / "small"),
    )  # fmt: skip
    assert said["criterion"] == "taylor" and said["evaluator"] == "removed_loss" and said["rectify"] == "reconstruct"
    small = rc.load(tmp_path / "small")
    assert "digits" in small.reconvene_plan.data and not kept_slices(small, net)


@pytest.mark.parametrize("kind", ["safetensors", "checkpoint"])
def test_weights_come_from_a_file(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    net = network()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(net.state_dict(), path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in net.state_dict().items()}}, path)
    arguments = [*MODEL, "--trained", "--macs", "2x", "-o", str(tmp_path / "small")]
    answer(capfd, "prune", *arguments, "--weights", str(path))
    assert kept_slices(rc.load(tmp_path / "small"), net)


def test_an_artifact_says_that_it_is_trained_and_keeps_the_dense_network(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    net = network()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "mine.safetensors")
    small, dense = tmp_path / "small", tmp_path / "small" / "dense"
    arguments = ["--trained", "--macs", "2x", "-o", str(small), "--weights", str(tmp_path / "mine.safetensors")]
    answer(capfd, "prune", *MODEL, *arguments)
    assert artifact.Artifact.open(small).is_trained and artifact.Artifact.open(dense).is_trained
    assert artifact.Artifact.open(dense).weights_from == "mine.safetensors"
    pairs = zip(rc.load(dense).parameters(), net.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    answer(capfd, "prune", *MODEL, "--macs", "2x", "-o", str(tmp_path / "fresh"))
    assert not artifact.Artifact.open(tmp_path / "fresh").is_trained
    again = ["prune", str(small), "--trained", "--macs", "2x"]
    assert "is what is pruned" in trouble(capfd, *again, "-o", str(small))
    answer(capfd, *again, "-o", str(tmp_path / "smaller"))
    assert artifact.Artifact.open(tmp_path / "smaller" / "dense").weights_from == "mine.safetensors"


def test_weights_that_do_not_fit_name_the_layer(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    state = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    name = next(iter(state))
    path, out = tmp_path / "weights.safetensors", str(tmp_path / "small")
    arguments = ["prune", *MODEL, "--trained", "--macs", "2x", "-o", out, "--weights", str(path)]
    assert "cannot be read" in trouble(capfd, *arguments)
    safetensors.torch.save_file(
        {name.replace("weight", "wieght") if n == name else n: t for n, t in state.items()}, path
    )
    words = trouble(capfd, *arguments)
    assert f"it lacks 1 weight, first {name!r}" in words and f"to {name!r}?" in words
    safetensors.torch.save_file({**state, name: state[name][:1]}, path)
    assert f"{name} has shape (1," in trouble(capfd, *arguments)
    assert not Path(out).exists()


def test_what_makes_no_sense_together_is_a_usage_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    rc.save(network(), tmp_path / "dense")
    dense, out = str(tmp_path / "dense"), ["--macs", "2x", "-o", str(tmp_path / "small")]
    assert "--trained" in trouble(capfd, "prune", *MODEL, "--weights", "x.pt", *out, code=2)
    assert "is an artifact" in trouble(capfd, "prune", dense, *out, code=2)
    assert "Leave --weights out" in trouble(capfd, "prune", dense, "--trained", "--weights", "x.pt", *out, code=2)


def test_layers_are_kept_in_untrained_networks_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    answer(capfd, "prune", *MODEL, "--macs", "1.5x", "--keep", "classifier", "-o", str(tmp_path / "small"))
    dense = artifact.dense(tmp_path / "small")
    assert torch.equal(rc.load(tmp_path / "small").classifier.weight, dense.classifier.weight)
    words = trouble(capfd, "prune", *MODEL, "--macs", "1.5x", "--keep", "clasifier", "-o", str(tmp_path / "small"))
    assert "unknown layer to keep 'clasifier'" in words and "Did you mean 'classifier'" in words


def test_the_cost_of_a_cut_is_printed_and_can_be_evaluated(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    dense, out = str(tmp_path / "dense"), str(tmp_path / "small")
    train = ["train", "resnet20", "--data", "digits", "--limit", "60", "--epochs", "1", "-o", dense]
    answer(capfd, *train, "--model-arg", "width=0.25")
    said = answer(capfd, "prune", dense, "--trained", "--params", "2x", "--data", "digits", "--limit", "60", "-o", out)
    assert set(said["scores"]) == {"dense", "pruned"} and all(0 <= score <= 1 for score in said["scores"].values())
    evaluated = answer(capfd, "evaluate", out, "--data", "digits", "--limit", "60")["variants"]
    assert {name: found["accuracy"] for name, found in evaluated.items()} == pytest.approx(said["scores"])
    assert scores(Path(out)) == pytest.approx(said["scores"]), "the report shows them"
    assert main(["prune", dense, "--trained", "--params", "1.5x", "--keep", "stages.0.0", "-o", f"{out}2"]) == 0
    assert "kept whole, as asked: stages.0.0" in capfd.readouterr().out


def test_a_network_at_chance_is_doubted_in_the_prune_the_export_and_the_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    small, data = str(tmp_path / "small"), ["--data", "digits", "--limit", "200"]
    assert main(["prune", *MODEL, "--trained", *data, "--params", "2x", "-o", small]) == 0
    said = capfd.readouterr().out
    assert "looks untrained" in said and "warning: pruned: " in said and "the trained weights (--weights FILE)" in said
    stored = artifact.Artifact.open(small)
    assert stored.as_cut is not None and stored.as_cut.warnings.keys() == {"pruned"}
    assert stored.preprocessing is not None and stored.preprocessing.shape == (1, 8, 8)
    assert main(["export", small, *data]) == 0
    assert "warning: pruned: " in capfd.readouterr().out
    assert scores(Path(small)) == stored.as_cut.scores
    page = report(small).read_text()
    assert "Inputs and outputs" in page and "From the trained network" in page


def test_weights_that_a_model_loads_itself_are_judged_as_the_dense_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    (tmp_path / "own.py").write_text(
        "import torch\nfrom reconvene.models import ModelSource\n\n\ndef make():\n"
        f"    net = ModelSource('resnet20', {SOURCE.args}, (1, 8, 8), 0).build()\n"
        "    net.load_state_dict(torch.load('weights.pt'))\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    data = ["--input", "1x8x8", "--data", "digits", "--limit", "60"]
    said = answer(capfd, "prune", "own.py:make", "--allow-import", "--trained", *data, "--params", "2x", "-o", "small")
    assert said["scores"].keys() == {"dense", "pruned"}
    assert artifact.Artifact.open("small/dense").weights_from == "own.py:make"


def test_a_network_trained_elsewhere_says_how_its_images_were_normalised(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    small, data = str(tmp_path / "small"), ["--data", "digits", "--limit", "60"]
    prune = ["prune", *MODEL, "--trained", "--weights", str(tmp_path / "weights.pt"), *data, "--params", "2x"]
    answer(capfd, *prune, "--mean", "0", "--std", "1", "-o", small)
    preprocessing = artifact.Artifact.open(small).preprocessing
    assert preprocessing is not None and (preprocessing.mean, preprocessing.std) == ((0.0,), (1.0,))
    assert main(["export", small, *data]) == 0
    assert "inputs: images 1x8x8, (x / 255 - mean) / std with mean 0 and std 1" in capfd.readouterr().out
    answer(capfd, "train", small, *data, "--epochs", "1")
    preprocessing = artifact.Artifact.open(small).preprocessing
    assert preprocessing is not None and preprocessing.std == (1.0,), "training goes on with them"
    assert "mean is one number for each of 1 channels" in trouble(capfd, *prune, "--mean", "0,0", "-o", f"{small}2")
    assert "--std x is not a list of numbers" in trouble(capfd, *prune, "--std", "x", "-o", f"{small}2", code=2)


def test_normalisation_is_remembered_where_a_cut_sees_no_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    small, smaller = str(tmp_path / "small"), str(tmp_path / "smaller")
    prune = ["prune", *MODEL, "--trained", "--weights", str(tmp_path / "weights.pt"), "--params", "2x"]
    assert "is one number for each of 1 channels" in trouble(capfd, *prune, "--mean", "0,0", "--std", "1", "-o", small)
    answer(capfd, *prune, "--mean", "0.25", "--std", "0.5", "-o", small)
    answer(capfd, "prune", small, "--trained", "--params", "1.5x", "-o", smaller)
    for folder in (small, f"{small}/dense", smaller):
        assert artifact.Artifact.open(folder).normalised == Normalisation((0.25,), (0.5,))
    data = ["--data", "digits", "--limit", "60"]
    assert "was trained with 0.25" in trouble(capfd, "evaluate", small, *data, "--mean", "0", "--std", "1", code=2)
    answer(capfd, "evaluate", small, *data)
    preprocessing = artifact.Artifact.open(small).preprocessing
    assert preprocessing is not None and (preprocessing.mean, preprocessing.std) == ((0.25,), (0.5,))


def test_files_of_earlier_weights_are_removed(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out, data = tmp_path / "out", ["--data", "digits", "--limit", "60", "--epochs", "1"]
    answer(capfd, "train", *MODEL, "-o", str(out), *data)
    answer(capfd, "export", str(out))
    assert (out / "model.onnx").exists()
    artifact.add_measurements(out, {"compiled": {"cycles": 7}})
    assert main(["train", str(out), *data, "--again"]) == 0
    assert "removed, since they hold the weights of before: model.onnx" in capfd.readouterr().err
    assert not (out / "model.onnx").exists() and not artifact.Artifact.open(out).exports
    assert "compiled" not in artifact.Artifact.open(out).measurements, "that was of earlier weights, too"


def test_a_task_is_remembered_by_what_was_pruned(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    unet = ["unet", "--model-arg", "num_classes=2", "--model-arg", "width=0.25", "--input", "3x16x16"]
    source = ModelSource("unet", {"num_classes": 2, "width": 0.25}, (3, 16, 16), 0)
    torch.save(source.build().state_dict(), tmp_path / "weights.pt")
    write_masks(tmp_path / "cells")
    cells, small = str(tmp_path / "cells"), str(tmp_path / "small")
    prune = [
        "prune",
        *unet,
        "--trained",
        "--weights",
        str(tmp_path / "weights.pt"),
        "--params",
        "1.5x",
        "--data",
        cells,
    ]
    assert "--task segmentation" in trouble(capfd, *prune, "-o", small)
    for steps in ([], ["--steps", "1", "--epochs", "0"]):
        answer(capfd, *prune, "--task", "segmentation", "-o", small, "--overwrite", *steps)
        assert answer(capfd, "evaluate", small, "--data", cells)["variants"]["pruned"]["headline"] == "dice"
        assert "Iou" in report(Path(small)).read_text()


def test_a_network_of_a_loop_of_ones_own_can_be_evaluated(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    small = rc.prune(network(), torch.randn(1, 1, 8, 8), rc.Budget(params="2x"), rectify="reinit")
    rc.save(small, tmp_path / "small")
    data = ["--data", "digits", "--limit", "60"]
    assert "trained=True" in trouble(capfd, "evaluate", str(tmp_path / "small"), *data)
    rc.save(small, tmp_path / "small", trained=True)
    assert "accuracy" in answer(capfd, "evaluate", str(tmp_path / "small"), *data)["variants"]["pruned"]


def test_kept_weights_are_trained_on_at_the_end_of_the_schedule(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    small, data = str(tmp_path / "small"), ["--data", "digits", "--limit", "200"]
    rc.save(network(), tmp_path / "dense")
    answer(capfd, "prune", str(tmp_path / "dense"), "--trained", "--params", "2x", "-o", small)
    assert main(["train", small, *data, "--epochs", "1"]) == 0
    assert "trained weights were kept: the last 25% of the schedule" in capfd.readouterr().err
    training = artifact.Artifact.open(small).training
    assert training is not None and (training.asked["tail"], training.asked["lr"]) == (0.25, 0.1)
    answer(capfd, "train", small, *data, "--epochs", "1", "--lr", "0.01", "--again")
    training = artifact.Artifact.open(small).training
    assert training is not None and training.asked["lr"] == 0.01 and training.asked.get("tail", 1.0) == 1.0
    assert usual_recipe(tmp_path / "dense", 5) == TrainConfig()


def test_the_report_of_a_saved_model_says_that_its_weights_were_kept(tmp_path: Path):
    net = network()
    rc.save(rc.prune(net, torch.randn(1, 1, 8, 8), rc.Budget(params="2x"), trained=True), tmp_path / "small")
    assert "Channels of a trained network were removed" in report(tmp_path / "small").read_text()


def test_networks_judged_on_different_images_are_not_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    dense, out = tmp_path / "dense", tmp_path / "small"
    options = ["--data", "digits", "--epochs", "1"]
    answer(capfd, "train", "resnet20", "--model-arg", "width=0.25", "-o", str(dense), *options, "--limit", "60")
    answer(capfd, "prune", str(dense), "--trained", "--params", "2x", "-o", str(out))
    answer(capfd, "train", str(out), *options, "--limit", "80")
    assert set(scores(out)) == {"pruned"}
    assert "the dense network was trained on" in report(out).read_text()
    steps = ["prune", str(dense), "--trained", "--params", "2x", "--steps", "1", "--epochs", "1", "--limit", "80"]
    steps += ["--data", "digits"]
    curve = answer(capfd, *steps, "-o", str(tmp_path / "steps"))["curve"]
    assert scores(tmp_path / "steps")["dense"] == curve["dense"], "the steps judge both on the same images"


def test_in_steps_a_network_is_cut_and_tuned_in_turn(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    rc.save(network(), tmp_path / "dense")
    dense, out = str(tmp_path / "dense"), str(tmp_path / "small")
    arguments = ["prune", dense, "--trained", "--params", "2x", "--data", "digits", "-o", out]
    said = answer(capfd, *arguments, "--steps", "2", "--epochs", "1", "--limit", "100", "--criterion", "l2")
    steps = said["curve"]["steps"]
    assert [step["step"] for step in steps] == [1, 2] and said["curve"]["metric"] == "accuracy"
    assert steps[1]["costs"]["params"] == said["costs"]["pruned"]["params"] <= said["costs"]["dense"]["params"] / 2
    stored = artifact.Artifact.open(out)
    assert stored.training is not None and stored.training.score == steps[1]["tuned"]
    assert stored.training.teacher is not None and stored.training.asked["tail"] == 0.25
    assert kept_slices(rc.load(out), network()) is False
    assert torch.equal(rc.load(tmp_path / "small" / "dense").classifier.weight, network().classifier.weight)
    manifest = (tmp_path / "small" / artifact.MANIFEST).read_bytes()
    answer(capfd, *arguments, "--steps", "2", "--epochs", "1", "--limit", "100", "--criterion", "l2")
    assert (tmp_path / "small" / artifact.MANIFEST).read_bytes() == manifest, "done already"
    assert "was trained" in trouble(capfd, *arguments, "--steps", "3", "--epochs", "1", "--limit", "100")


def test_steps_are_judged_by_validation_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    from reconvene.data import load_data
    from reconvene.training import evaluate_split

    rc.save(network(), tmp_path / "dense")
    arguments = ["prune", str(tmp_path / "dense"), "--trained", "--params", "2x", "-o", str(tmp_path / "small")]
    arguments += ["--data", "digits"]
    said = answer(capfd, *arguments, "--steps", "1", "--limit", "100", "--criterion", "l2", "--validation", "0.2")
    stored = artifact.Artifact.open(tmp_path / "small")
    shape = stored.source.input_shape
    data = load_data("digits", input_shape=shape, limit=100, validation=0.2)
    tuned = rc.load(tmp_path / "small")
    assert said["curve"]["split"] == "validation" and stored.training is not None
    assert said["curve"]["steps"][0]["tuned"] == evaluate_split(tuned, data, split="validation").score
    assert stored.training.score == evaluate_split(tuned, data).score


def test_options_of_tuning_need_steps(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    rc.save(network(), tmp_path / "dense")
    arguments = ["--params", "2x", "-o", str(tmp_path / "small")]
    assert "--trained" in trouble(capfd, "prune", *MODEL, "--steps", "2", *arguments, code=2)
    words = trouble(capfd, "prune", str(tmp_path / "dense"), "--trained", "--floor", "0.5", *arguments, code=2)
    assert "--floor is about tuning" in words
    words = trouble(capfd, "prune", str(tmp_path / "dense"), "--trained", "--steps", "2", *arguments, code=2)
    assert "tuning needs the images" in words and "--data" in words


def test_an_untrained_artifact_is_exported_on_the_data_of_its_task(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_masks(tmp_path / "cells")
    net = ModelSource("unet", {"width": 0.125, "num_classes": 2}, (3, 16, 16))
    rc.save(net.build(), tmp_path / "net", source=net)
    said = answer(capfd, "export", str(tmp_path / "net"), "--data", str(tmp_path / "cells"), "--task", "segmentation")
    assert said["exports"][0]["verification"]["data"] == "real data"  # masks of two classes, not folders of classes
