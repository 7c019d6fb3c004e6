"""Segmentation and image-to-image: targets read, encoded and decoded; trained, distilled, exported."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import reconvene as rc
from reconvene import workflow
from reconvene.data import Augmentation, load_data, train_batches
from reconvene.deploy import Limits
from reconvene.errors import DataError, TrainingError
from reconvene.models import MODELS
from reconvene.tasks import TASKS, Targets, task_named
from reconvene.tasks.segmentation.semantic import map_metrics, soft_dice_loss
from reconvene.training import TrainConfig, train_model
from reconvene.training.assess import assess, predict
from reconvene.workflow.inputs import preparation
from support.cli_calls import answer, trouble
from support.segments import disc_map, discs

pytest.importorskip("skimage")
pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
CONFIG = TrainConfig(batch_size=8, precision="fp32", device="cpu", lr=0.1)
INSTANCES = ("instances", "instances-hv")


def unet(outputs: int, width: float = 0.125) -> nn.Module:
    torch.manual_seed(0)
    return MODELS["unet"](num_classes=outputs, in_channels=1, width=width)


def perfect(name: str, numbers: torch.Tensor) -> torch.Tensor:
    """Outputs that say just what the maps hold."""
    inside = torch.stack([numbers == 0, numbers > 0], dim=1).float() * 20 - 10
    geometry = torch.from_numpy(np.stack([TASKS[name].encode(one.numpy()) for one in numbers]))
    return torch.cat([inside, geometry], dim=1)


@pytest.mark.parametrize("name", INSTANCES)
def test_what_is_encoded_is_decoded_also_where_objects_touch(name: str) -> None:
    rng = np.random.default_rng(1)
    numbers = torch.from_numpy(np.stack([disc_map(rng, 64) for _ in range(8)]))
    values = TASKS[name].metrics(perfect(name, numbers), numbers)
    assert float(values["pq"].mean()) > 0.85 and float(values["dice"].mean()) > 0.97
    # connected components alone would merge what touches
    merged = torch.from_numpy(np.stack([(one.numpy() > 0).astype(np.int32) for one in numbers]))
    assert float(values["aji"].mean()) > rc.metrics.aji(merged, numbers) + 0.2


@pytest.mark.parametrize("name", INSTANCES)
def test_geometry_by_hand(name: str) -> None:
    numbers = np.zeros((7, 9), dtype=np.int32)
    numbers[1:6, 1:6], numbers[1:6, 6:9] = 5, 3
    channels = TASKS[name].encode(numbers)
    assert channels[:, numbers == 0].any() == False and channels.dtype == np.float32  # noqa: E712
    if name == "instances":
        assert channels[0, 3, 3] == 1 == channels[0].max() and channels[0, 1, 1] == pytest.approx(1 / 3)
    else:
        assert channels[0, 3, 1:6].tolist() == [-1, -0.5, 0, 0.5, 1] and channels[0, 3, 6:].tolist() == [-1, 0, 1]
        assert channels[1, 1:6, 2].tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize("name", INSTANCES)
def test_maps_without_objects_and_full_of_one(name: str) -> None:
    for numbers in (torch.zeros(2, 16, 16, dtype=torch.int32), torch.full((2, 16, 16), 4, dtype=torch.int32)):
        output = perfect(name, numbers)
        assert bool(output.isfinite().all())
        assert TASKS[name].metrics(output, numbers)["pq"].tolist() == [1, 1]
        assert bool(TASKS[name].loss(output, numbers).isfinite())


def test_dice_of_classes_by_hand() -> None:
    target = torch.tensor([[[0, 1], [2, 2]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    predicted = torch.tensor([[[0, 1], [1, 2]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]])
    values = map_metrics(predicted, target, 4)
    assert values["dice"].tolist() == pytest.approx([2 / 3, 1, 0])
    assert values["iou"].tolist() == pytest.approx([1 / 2, 1, 0])
    assert values["accuracy"].tolist() == pytest.approx([3 / 4, 1, 3 / 4])
    scores = nn.functional.one_hot(target[:1], 3).permute(0, 3, 1, 2).float() * 100
    assert float(soft_dice_loss(scores, target[:1])) == pytest.approx(0, abs=1e-6)
    assert float(soft_dice_loss(scores.roll(1, 1), target[:1])) > 0.5
    assert float(soft_dice_loss(torch.randn(1, 1, 4, 4), torch.zeros(1, 4, 4).long())) == 0, "background alone"


@pytest.mark.parametrize("name", ["segmentation", *INSTANCES])
def test_a_unet_learns_discs(name: str, tmp_path: Path) -> None:
    data = discs(80, name)
    result = train_model(unet(data.outputs), data, epochs=12, directory=tmp_path, config=CONFIG)
    assert result.evaluation.metrics["dice"] > 0.8
    if name != "segmentation":
        assert result.score > {"instances": 0.4, "instances-hv": 0.25}[name] and set(result.evaluation.metrics) == {
            "pq",
            "dq",
            "sq",
            "aji",
            "aji_plus",
            "dice",
        }


@pytest.mark.parametrize("name", ["segmentation", *INSTANCES])
def test_a_network_is_assessed_beside_its_dense_one(name: str) -> None:
    data = discs(20, name)
    model = unet(data.outputs)
    assessment = assess(model, data, dense=predict(model, data))
    assert assessment.agreement == 1.0 and "dice, pooled" in assessment.rows()
    again = data.task.read_assessment(json.loads(json.dumps(assessment.to_dict())))
    assert again == assessment
    prediction = predict(model, data)[0][0]
    assert data.task.draw(prediction).shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["segmentation", *INSTANCES])
def test_losses_have_gradients_and_soft_ones_are_least_at_the_teacher(name: str) -> None:
    data = discs(10, name)
    output = torch.randn(4, data.outputs, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher = output.detach().clone()
    loss = data.task.training_loss(output, data.train.targets[:4], label_smoothing=0.1)
    loss.backward()
    assert bool(output.grad.abs().sum((0, 2, 3)).gt(0).all()), "every channel is learned"
    output = output.detach()
    assert float(data.task.soft_loss(output, teacher, 2.0)) == pytest.approx(0, abs=1e-5)
    assert float(data.task.soft_loss(output * 1.5, teacher, 2.0)) > 0.01


@pytest.mark.parametrize("name", ["segmentation", *INSTANCES])
def test_outputs_that_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    data = discs(20, name)
    with pytest.raises(TrainingError, match=rf"num_classes={data.outputs}"):
        train_model(unet(7), data, epochs=1, directory=tmp_path, config=CONFIG)
    with pytest.raises(TrainingError, match="returns"):
        train_model(MODELS["resnet20"](in_channels=1, width=0.25), data, epochs=1, directory=tmp_path, config=CONFIG)


def test_int8_asks_for_agreement_where_outputs_are_classes(tmp_path: Path) -> None:
    """Of the five channels two are scores: the direction a pixel points to is no class."""
    data = discs(20, "instances-hv")
    model = unet(data.outputs).eval()
    batch = [(data.normalise(data.train.images), data.train.targets)]
    options = {"example_inputs": batch[0][0][:1], "quantize": "int8", "calibration": batch}
    loose = Limits(0.0, -20.0, 1.0)
    found = rc.export(model, tmp_path, task="instances-hv", limits=loose, **options).verification
    output, wanted = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    same = data.task.agreement(output, wanted)
    assert same is not None and torch.equal(same[:, 0], output[:, :2].argmax(1) == wanted[:, :2].argmax(1))
    assert data.task.agreement(output[:, :3], wanted[:, :3]) is None
    assert found.agreement is not None and found.measure == "pq" and found.quality is not None
    plain = rc.export(model, tmp_path, task="image-to-image", limits=loose, **options).verification
    assert plain.agreement is None and plain.quality is None


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def folder(root: Path, names: dict[str, list[np.ndarray]]) -> Path:
    for name, pictures in names.items():
        (root / name).mkdir(parents=True)
        for i, pixels in enumerate(pictures):
            (root / name / f"{i:02}.png").write_bytes(png(pixels))
    return root


def pictures(count: int, size: tuple[int, int] = (20, 24)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(count)]


def numbered(count: int, size: tuple[int, int] = (20, 24)) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        np.kron(rng.integers(0, 900, (size[0] // 4, size[1] // 4)), np.ones((4, 4))).astype(np.uint16)
        for _ in range(count)
    ]


def test_outputs_that_instances_do_not_read_are_listed() -> None:
    maps = torch.zeros(2, 8, 8, dtype=torch.int32)
    for outputs in ({"out": torch.zeros(2, 4, 8, 8)}, dict.fromkeys(("np", "hv", "tp"), torch.zeros(2, 2, 8, 8))):
        with pytest.raises(TrainingError, match=rf"outputs {', '.join(outputs)}, but instances-hv of cells reads one"):
            task_named("instances-hv").check(outputs, maps, classes=("background", "object"), data="cells")


@pytest.mark.parametrize("layout", ["one folder", "train and test", "parquet"])
def test_instances_are_read_as_they_are(layout: str, tmp_path: Path) -> None:
    images, maps = pictures(10), numbered(10)
    if layout == "parquet":
        cells = [[{"bytes": png(one), "path": None} for one in many] for many in (images, maps)]
        parquet.write_table(pyarrow.table({"image": cells[0], "instances": cells[1]}), tmp_path / "train.parquet")
    elif layout == "one folder":
        folder(tmp_path, {"images": images, "instances": maps})
    else:
        folder(tmp_path / "train", {"images": images[:8], "instances": maps[:8]})
        folder(tmp_path / "test", {"images": images[8:], "instances": maps[8:]})
    data = load_data(tmp_path, task="segmentation")
    assert data.task is task_named("instances") and data.classes == ("background", "object") and data.outputs == 3
    assert len(data.train) == 8 and data.train.targets.dtype == torch.int32 and "instances" in str(data)
    together = np.concatenate([data.train.targets.numpy(), data.test.targets.numpy()])
    assert sorted(one.tobytes() for one in together) == sorted(one.astype(np.int32).tobytes() for one in maps)
    small = load_data(tmp_path, task="segmentation", input_shape=(3, 10, 12))
    assert small.train.targets.shape == (8, 10, 12), "maps are scaled with their images"
    assert set(small.train.targets.unique().tolist()) <= set(data.train.targets.unique().tolist()), "and not blurred"


def test_values_of_masks_are_classes(tmp_path: Path) -> None:
    masks = [np.where(one[:, :, 0] > 128, 255, 0).astype(np.uint8) for one in pictures(5)]
    data = load_data(folder(tmp_path, {"images": pictures(5), "masks": masks}), task="segmentation")
    assert data.task is task_named("segmentation") and data.classes == ("0", "255") and data.outputs == 2
    assert set(data.train.targets.unique().tolist()) == {0, 1}
    as_objects = load_data(tmp_path, task="instances")
    assert set(as_objects.train.targets.unique().tolist()) == {0, 255}, "asked for objects, numbers stay"
    with pytest.raises(DataError, match="too many for classes"):
        folder(tmp_path / "b", {"images": pictures(20), "masks": numbered(20)})
        load_data(tmp_path / "b", task="segmentation")


def test_classes_are_those_of_all_maps_whatever_is_left_of_them(tmp_path: Path) -> None:
    masks = [np.zeros((20, 24), np.uint8) for _ in range(20)]
    for mask in masks:
        mask[4:12, 4:12] = 100
    masks[7][0, 0] = 5  # one pixel of one mask
    data = folder(tmp_path, {"images": pictures(20), "masks": masks})
    for options in ({}, {"limit": 2}, {"input_shape": (3, 10, 12)}, {"limit": 2, "validation": 0.2}):
        loaded = load_data(data, task="segmentation", **options)
        assert loaded.classes == ("0", "5", "100") and loaded.outputs == 3
        assert {0, 2} <= set(loaded.train.targets.unique().tolist()) <= {0, 1, 2}
    # Earlier releases took the classes from the maps that a limit left.
    earlier = SimpleNamespace(folder="old", preprocessing=replace(loaded.preprocessing, classes=("0", "100")))
    with pytest.raises(DataError, match="or train it again if it was trained on a part of the maps"):
        preparation(earlier, loaded)


def test_pictures_and_numbers_are_targets_too(tmp_path: Path) -> None:
    images = pictures(5)
    data = load_data(folder(tmp_path / "a", {"images": images, "targets": images}), task="image-to-image")
    assert (
        data.task.targets is Targets.PICTURES
        and data.outputs == 3
        and torch.equal(data.train.images, data.train.targets)
    )
    same = data.train.targets.float() / 255
    values = data.task.metrics(same, data.train.targets)
    assert values["psnr"].tolist() == pytest.approx([100.0] * len(same))
    off = data.task.metrics(same + 0.1, data.train.targets)
    assert off["psnr"].tolist() == pytest.approx([20.0] * len(same), abs=1e-3)
    assert off["mae"].tolist() == pytest.approx([0.1] * len(same), abs=1e-5)
    table = pyarrow.table({"image": [png(one) for one in images], "value": [[float(i), 0.5] for i in range(5)]})
    parquet.write_table(table, tmp_path / "train.parquet")
    numbers = load_data(tmp_path / "train.parquet", task="regression")
    assert numbers.train.targets.shape == (4, 2) and numbers.outputs == 2


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        ({"images": pictures(5)}, "no pairs of images and maps"),
        ({"images": pictures(5), "masks": numbered(6)}, "images lacks 1 of the 6 names in .*masks: 05"),
        ({"images": pictures(6), "masks": numbered(4)}, "masks lacks 2 of the 6 names in .*images: 04, 05"),
        ({"images": pictures(5), "masks": numbered(5, (20, 20))}, "is 20x20, its image 20x24"),
        ({"images": pictures(5), "masks": pictures(5)}, "of mode RGB, not one integer a pixel"),
    ],
)
def test_what_is_no_pair_is_named(names: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=wrong):
        load_data(folder(tmp_path, names), task="segmentation")


def test_a_target_picture_is_as_large_as_its_image_or_as_the_frame(tmp_path: Path) -> None:
    small, large = pictures(5), [np.kron(one, np.ones((2, 2, 1), np.uint8)) for one in pictures(5)]
    data = folder(tmp_path / "sr", {"images": small, "targets": large})
    enlarged = load_data(data, task="image-to-image", input_shape=(3, 40, 48))
    assert enlarged.train.images.shape == (4, 3, 40, 48)
    together = [*enlarged.train.targets, *enlarged.test.targets]
    assert {one.permute(1, 2, 0).numpy().tobytes() for one in together} == {one.tobytes() for one in large}
    for shape in (None, (3, 20, 24)):
        with pytest.raises(DataError, match=r"target of .*\.png is 40x48, its image 20x24.*--input 3x40x48"):
            load_data(data, task="image-to-image", input_shape=shape)
    square = folder(tmp_path / "square", {"images": small, "targets": [one[:, :20] for one in small]})
    with pytest.raises(DataError, match=r"is 20x20, its image 20x24.*different views"):
        load_data(square, task="image-to-image", input_shape=(3, 20, 20))
    deep = folder(tmp_path / "deep", {"images": small, "targets": numbered(5)})
    with pytest.raises(DataError, match=r"target of .* is an image of mode I;16"):
        load_data(deep, task="image-to-image")


def test_numbers_are_not_read_from_folders(tmp_path: Path) -> None:
    data = folder(tmp_path, {"images": pictures(5), "targets": pictures(5)})
    with pytest.raises(DataError, match=r"asks for numbers.*parquet files with a column 'image'.*'target'"):
        load_data(data, task="regression")


def test_labels_are_no_maps() -> None:
    with pytest.raises(DataError, match="asks for maps"):
        load_data("digits", task="segmentation")


def test_maps_move_with_their_images() -> None:
    """A map that numbers pixels by their grey level still does after every shift and flip."""
    rng = np.random.default_rng(0)
    data = discs(32, "instances")
    pixels = torch.from_numpy(rng.integers(1, 256, (32, 1, 32, 32)).astype(np.uint8))
    split = type(data.train)(pixels, pixels[:, 0].int())
    moved = type(data)("grey", split, split, data.classes, (0.0,), (1 / 255,), Augmentation(4, True), task=data.task)
    batches = list(train_batches(moved, batch_size=8, seed=0, epoch=0))
    assert all(torch.equal(x[:, 0].round().int(), y) for x, y in batches)
    assert min(int(y.min()) for _, y in batches) > 0, "edges are repeated: no zero is padded"
    plain = {one.numpy().tobytes() for one in split.targets}
    assert any(one.contiguous().numpy().tobytes() not in plain for _, y in batches for one in y)


def test_the_commands_train_evaluate_and_show_a_unet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``train unet`` makes an artifact; pruned, trained beside its dense one and evaluated, its report has pictures."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    maps = [disc_map(rng).astype(np.uint16) for _ in range(24)]
    images = [np.repeat((60 + 120 * (one > 0)).astype(np.uint8)[..., None], 3, axis=2) for one in maps]
    folder(tmp_path / "cells", {"images": images, "instances": maps})
    data = ["--data", "cells", "--task", "segmentation", "--epochs", "1", "--precision", "fp32"]
    scored = ["--criterion", "snip", "--evaluator", "concentration", *data[:4], "--input", "3x32x32"]
    sized_unet = ["--model-arg", "width=0.125", "--model-arg", "num_classes=3"]
    assert answer(capfd, "inspect", "unet", *scored, *sized_unet)["sensitivity"]["groups"], "scored by the task's loss"
    small = ["--input", "3x32x32", "--model-arg", "width=0.125"]
    trained = answer(capfd, "train", "unet", *data, *small)
    assert trained["task"] == "instances" and trained["artifact"] == "out/unet" and 0 <= trained["pq"] <= 1
    assert answer(capfd, "train", "unet", *data, *small) == trained, "a finished run says what it said"
    assert "-o" in trouble(capfd, "train", "unet", *data, "--input", "3x32x32", code=2)
    assert "are about a model given by name" in trouble(capfd, "train", "out/unet", *data, *small, code=2)
    said = answer(capfd, "evaluate", "out/unet", "--data", "cells")["variants"]["dense"]["metrics"]
    assert said["pq"] == pytest.approx(trained["pq"], abs=1e-6), "the artifact knows its task"
    steps = ["--steps", "1", "--params", "2x", "--data", "cells", "--epochs", "1", "--criterion", "l2"]
    answer(capfd, "prune", "out/unet", "--trained", *steps, "-o", "steps")
    page = workflow.report(Path("steps")).read_text()
    assert page.count("data:image/png;base64,") == 16, "a pruning in steps shows its predictions beside the dense ones"
    sized = [*small, "--model-arg", "num_classes=3"]
    answer(capfd, "prune", "unet", "-o", "small", "--params", "2x", *sized)
    answer(capfd, "train", "small", *data, "--distill")
    shown = answer(capfd, "evaluate", "small", "--data", "cells")["variants"]
    assert set(shown) == {"dense", "pruned"} and shown["pruned"]["agreement"] is not None
    page = workflow.report(Path("small")).read_text()
    assert page.count("data:image/png;base64,") == 16 and "Beyond pq" in page and "Predictions" in page
    exported = answer(capfd, "export", "small", "--data", "cells")["exports"][0]["verification"]
    assert exported["agreement"] > 0.99
    assert "names the class of an image" in trouble(capfd, "export", "small", "--data", "cells", "--bundle", "b.tar.gz")
