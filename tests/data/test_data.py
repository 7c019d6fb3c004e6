"""What is loaded is what was there; a batch is a function of seed, epoch and step; trouble names the row."""

from __future__ import annotations

import io
import math
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reconvene.data import (
    Augmentation,
    Dataset,
    Split,
    calibration,
    load_data,
    stratified_calibration,
    test_batches,
    train_batches,
)
from reconvene.data.batches import crop
from reconvene.data.dataset import statistics
from reconvene.data.load import count_images as counted
from reconvene.data.source import stratified
from reconvene.errors import DataError, MissingExtraError, ResourceError
from reconvene.training import TrainConfig
from reconvene.training.epoch_batches import TrainingBatches
from support.paths import SHARED

image = pytest.importorskip("PIL.Image", reason="needs the data extra")
pyarrow = pytest.importorskip("pyarrow", reason="needs the data extra")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the data extra")
pytest.importorskip("sklearn", reason="needs the data extra")

test_batches.__test__ = False  # type: ignore[attr-defined]  # not a test
SHARED = SHARED / "data"


def png(value: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    image.new(mode, size, value if mode == "L" else (value, 0, 255 - value)).save(content, "PNG")
    return content.getvalue()


def table(labels: list[Any], column: str = "label", cells: list[Any] | None = None, name: str = "img") -> Any:
    cells = [{"bytes": png(i), "path": None} for i in range(len(labels))] if cells is None else cells
    return pyarrow.table({name: cells, column: labels})


def write_folder(root: Path, classes: dict[str, int], size: tuple[int, int] = (4, 4)) -> None:
    for c, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(png(10 * c + i, size))


def same(one: Split, other: Split) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)


# digits


def test_digits_are_the_1797_scans_split_the_same_way_every_time() -> None:
    data, again, other = load_data("digits"), load_data("digits"), load_data("digits", split_seed=1)
    assert (len(data.train), len(data.test), data.shape) == (1438, 359, (3, 32, 32))
    assert data.train.images.dtype == torch.uint8 and data.train.targets.dtype == torch.int64
    assert data.classes == tuple("0123456789")
    assert same(data.train, again.train) and same(data.test, again.test) and data.sha256 == again.sha256
    assert data.sha256 != other.sha256
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2]), "grey, three times"
    shares = data.test.targets.bincount() / data.train.targets.bincount()
    assert shares.tolist() == pytest.approx([0.25] * 10, abs=0.01), "every class in proportion"
    assert str(data) == ("digits: 1438 train and 359 test images 3x32x32, 10 classes, test held out with split seed 0")


def test_no_digit_is_in_both_splits_and_none_is_lost() -> None:
    from sklearn.datasets import load_digits

    data = load_data("digits", input_shape=(1, 8, 8))
    both = torch.cat([data.train.images, data.test.images]).flatten(1).numpy()
    want = np.rint(load_digits().images * (255 / 16)).astype(np.uint8).reshape(1797, 64)
    assert sorted(map(bytes, both)) == sorted(map(bytes, want))


def test_a_limit_keeps_classes_in_proportion() -> None:
    data = load_data("digits", input_shape=(1, 8, 8), limit=100)
    assert (len(data.train), len(data.test)) == (100, 100)
    assert data.train.targets.bincount(minlength=10).tolist() == pytest.approx([10] * 10, abs=1)


def test_validation_images_come_from_the_training_images_of_every_class() -> None:
    whole = load_data("digits", input_shape=(1, 8, 8))
    data = load_data("digits", input_shape=(1, 8, 8), validation=0.1)
    held_out = data.split("validation")
    assert (len(data.train), len(held_out), data.choosing, whole.choosing) == (1294, 144, "validation", "test")
    assert same(data.test, whole.test) and data.sha256 != whole.sha256
    both = torch.cat([data.train.images, held_out.images]).flatten(1).numpy()
    assert sorted(map(bytes, both)) == sorted(map(bytes, whole.train.images.flatten(1).numpy()))
    assert held_out.targets.bincount().tolist() == pytest.approx([14.4] * 10, abs=1)
    assert str(data).startswith("digits: 1294 train, 144 validation and 359 test images")
    for share in (-0.1, 1.0):
        with pytest.raises(DataError, match="validation must be a share"):
            load_data("digits", validation=share)
    with pytest.raises(DataError, match="no validation images"):
        load_data("digits", validation=1e-9)
    with pytest.raises(DataError, match="no validation images"):
        whole.split("validation")


@pytest.mark.parametrize("counts", [[5, 5], [1, 99], [3, 30, 300], [7]])
def test_stratified_takes_every_class_in_proportion(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    for count in (0, 1, len(labels) // 3, len(labels)):
        rows = stratified(labels, count, seed=1)
        assert len(rows) == count and (np.diff(rows) > 0).all()
        exact = np.array(counts) * count / len(labels)
        assert (abs(np.bincount(labels[rows], minlength=len(counts)) - exact) <= 1).all()


def test_training_images_are_counted_as_they_would_be_loaded(tmp_path: Path) -> None:
    parquet.write_table(table([3, 7] * 10), tmp_path / "all.parquet")
    write_folder(tmp_path / "split" / "train", {"cat": 2, "dog": 3})
    write_folder(tmp_path / "split" / "test", {"dog": 1})
    write_folder(tmp_path / "digits", {"cat": 5, "dog": 6}, size=(6, 6))
    for spec in ("digits", tmp_path / "all.parquet", tmp_path / "split", tmp_path / "digits"):
        for limit in (None, 4, 10_000):
            assert counted(spec, limit=limit) == len(load_data(spec, limit=limit).train), (spec, limit)
        held_out = load_data(spec, validation=0.3)
        assert counted(spec, validation=0.3) == len(held_out.train) < counted(spec), spec
    assert counted("owner/name") is None, "counting would be a download"
    for wrong, limit in (("no/such/place", None), (tmp_path / "no.parquet", None), ("digits", 0)):
        with pytest.raises(DataError):
            counted(wrong, limit=limit)


# parquet


def test_parquet_gives_the_pixels_labels_and_names(tmp_path: Path) -> None:
    parquet.write_table(table(["b", "a", "b"]), tmp_path / "train-00000-of-00001.parquet")
    parquet.write_table(table(["a"]), tmp_path / "test-00000-of-00001.parquet")
    data = load_data(tmp_path)
    assert data.classes == ("a", "b") and data.train.targets.tolist() == [1, 0, 1] and data.test.targets.tolist() == [0]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert data.train.images[:, 2, 3, 3].tolist() == [255, 254, 253]
    assert data.name == tmp_path.name and not data.note


def test_one_parquet_file_gets_a_test_split_that_the_line_confesses(tmp_path: Path) -> None:
    parquet.write_table(table([3, 7] * 10), tmp_path / "all.parquet")
    for spec in (tmp_path, tmp_path / "all.parquet"):
        data = load_data(spec)
        assert (len(data.train), len(data.test)) == (16, 4)
        assert data.classes == ("3", "7") and data.test.targets.bincount().tolist() == [2, 2]
        assert "held out with split seed 0" in str(data)


def test_cifar10_as_it_lies_here() -> None:
    if not (SHARED / "cifar10").is_dir():
        pytest.skip("the shared CIFAR-10 copy is not on this machine")
    data = load_data(SHARED / "cifar10", limit=200)
    assert data.classes[:3] == ("airplane", "automobile", "bird") and data.shape == (3, 32, 32)
    assert data.train.targets.bincount().tolist() == [20] * 10
    assert data.augmentation == Augmentation(pad=4, flip=True)


def test_segmentation_is_refused_by_the_column() -> None:
    if not (SHARED / "nuclei").is_dir():
        pytest.skip("the shared nuclei are not on this machine")
    with pytest.raises(
        DataError, match=r"no label column.*id, image, instances, count.*for segmentation, task=.segmentation"
    ):
        load_data(SHARED / "nuclei")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table([0, 1], column="kind"), "no label column found in .* columns: img, kind. Expected one of label, labels"),
        (table([0, 1], name="picture"), "no image column found in .* columns: picture, label"),
        (table([0.5, 1.5]), "column 'label' of .* holds double, not classes"),
        (table([0, None]), "1 of 2 rows of .* have no 'label'"),
        (table([0, 1], cells=[{"bytes": png(0)}, {"bytes": b"no image"}]), "broken image at .*column 'img', row 1"),
        (table([0, 1], cells=[{"bytes": png(0)}, {"bytes": png(1)[:50]}]), "broken image at .*row 1"),
        (table([0, 1], cells=[{"bytes": png(0)}, {"bytes": None}]), "broken image at .*row 1: the cell is empty"),
        (table([0, 1], cells=[1, 2]), "broken image at .*row 0: the cell holds int"),
        (table([], cells=[]), "has no training images"),
    ],
)
def test_a_table_that_is_no_labelled_images_says_what_and_where(tmp_path: Path, content: Any, message: str) -> None:
    for split in ("train", "test"):
        parquet.write_table(content, tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=message):
        load_data(tmp_path, input_shape=(3, 4, 4))


def test_a_validation_split_is_named(tmp_path: Path) -> None:
    for split in ("train", "test", "val"):
        parquet.write_table(table([0, 1] * 4), tmp_path / f"{split}.parquet")
    assert load_data(tmp_path).note == "its validation split is not used"
    (tmp_path / "test.parquet").unlink()
    assert load_data(tmp_path).note == "tested on its validation split"
    for split in ("train", "test", "valid"):
        write_folder(tmp_path / "folders" / split, {"a": 3, "b": 3})
    assert load_data(tmp_path / "folders").note == "its validation split is not used"


def test_what_says_nothing_of_the_data_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 3, "b": 3})
    for spec in ("digits", tmp_path):
        with pytest.raises(DataError, match="label_column='x' names a column of a table, and"):
            load_data(spec, label_column="x")
    with pytest.raises(DataError, match=r"mean=0\.5 is not a list of numbers"):
        load_data("digits", mean=0.5)  # type: ignore[arg-type]


def test_columns_can_be_named(tmp_path: Path) -> None:
    parquet.write_table(table([0, 1] * 5, column="kind", name="picture"), tmp_path / "all.parquet")
    assert load_data(tmp_path, image_column="picture", label_column="kind").classes == ("0", "1")
    with pytest.raises(DataError, match=r"no column 'sort'. Its columns: picture, kind"):
        load_data(tmp_path, image_column="picture", label_column="sort")


def test_labels_beyond_the_class_names_are_reported(tmp_path: Path) -> None:
    features = b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    content = table([0, -1]).replace_schema_metadata({b"huggingface": features})
    parquet.write_table(content, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="holds the label -1, but its 2 classes count from 0"):
        load_data(tmp_path)


def test_labels_of_two_kinds_are_reported(tmp_path: Path) -> None:
    parquet.write_table(table([0, 1]), tmp_path / "train.parquet")
    parquet.write_table(table(["0", "1"]), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="strings in one split and numbers in the other"):
        load_data(tmp_path)


def test_files_whose_split_is_unknown_are_listed(tmp_path: Path) -> None:
    parquet.write_table(table([0, 1]), tmp_path / "train.parquet")
    parquet.write_table(table([0, 1]), tmp_path / "more.parquet")
    with pytest.raises(DataError, match=r"cannot tell train from test .*more\.parquet, train\.parquet"):
        load_data(tmp_path)
    (tmp_path / "more.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "more.parquet").rename(tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"cannot read .*test\.parquet"):
        load_data(tmp_path)


# folders


def test_a_folder_of_classes_and_one_with_splits(tmp_path: Path) -> None:
    write_folder(tmp_path / "flat", {"cat": 10, "dog": 5})
    flat = load_data(tmp_path / "flat")
    assert flat.classes == ("cat", "dog") and (len(flat.train), len(flat.test)) == (12, 3)
    write_folder(tmp_path / "split" / "train", {"cat": 2, "dog": 3})
    write_folder(tmp_path / "split" / "val", {"dog": 1})
    split = load_data(tmp_path / "split")
    assert split.train.targets.tolist() == [0, 0, 1, 1, 1] and split.test.targets.tolist() == [1]
    assert split.train.images[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 12]


def test_a_folder_called_digits_is_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "digits", {"cat": 5, "dog": 5}, size=(6, 6))
    assert load_data(tmp_path / "digits").shape == (3, 6, 6)


def test_trouble_in_a_folder_names_the_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "train", {"cat": 2, "dog": 2})
    write_folder(tmp_path / "data" / "test", {"cat": 1, "fox": 1})
    with pytest.raises(DataError, match=r"has classes that .*train has not: fox"):
        load_data(tmp_path / "data")
    (tmp_path / "data" / "test" / "fox").rename(tmp_path / "data" / "test" / "dog")
    (tmp_path / "data" / "train" / "dog" / "1.png").write_bytes(png(0)[:50])
    with pytest.raises(DataError, match=r"broken image at .*train/dog/1\.png"):
        load_data(tmp_path / "data")
    (tmp_path / "data" / "train" / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^2 images cannot be decoded: .*cat/1\.png.*dog/1\.png.*Remove them"):
        load_data(tmp_path / "data")
    (tmp_path / "data" / "train" / "eel").mkdir()
    with pytest.raises(DataError, match=r"class folder .*eel holds no images"):
        load_data(tmp_path / "data")


def test_nothing_there_and_nothing_in_it_are_different_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data at .*nowhere: it does not exist"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no data at .*digit: it does not exist. Pass 'digits'"):
        load_data("digit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither parquet files nor class sub-folders"):
        load_data(tmp_path / "empty")
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(DataError, match="is a file, but not a parquet file"):
        load_data(tmp_path / "file.txt")
    with pytest.raises(DataError, match="limit must be at least 1"):
        load_data("digits", limit=0)


# the hub


def test_a_hub_dataset_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'nobody/nothing' could not be read.*Without a network, pass 'digits'"):
        load_data("nobody/nothing")


def test_a_hub_dataset_is_read_by_its_splits_and_features(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(4)], "label": [1, 0, 0, 1]}
    part = datasets.Dataset.from_dict(rows, features=features)
    splits = datasets.DatasetDict({"train": part, "validation": part.select([0, 1])})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    data = load_data("owner/animals")
    assert data.name == "owner/animals" and data.classes == ("cat", "dog")
    assert data.train.targets.tolist() == [1, 0, 0, 1] and data.test.targets.tolist() == [1, 0]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"digits dataset needs scikit-learn.*reconvene\[data\]"):
        load_data("digits")


# shapes


def test_pictures_are_scaled_to_cover_and_cut_in_the_middle(tmp_path: Path) -> None:
    stripes = np.zeros((4, 8, 3), dtype=np.uint8)
    stripes[:, 2:6] = 200
    content = io.BytesIO()
    image.fromarray(stripes).save(content, "PNG")
    parquet.write_table(table([0, 1] * 3, cells=[{"bytes": content.getvalue()}] * 6), tmp_path / "all.parquet")
    assert (load_data(tmp_path, input_shape=(3, 4, 4)).train.images == 200).all()
    grey = load_data(tmp_path, input_shape=(1, 8, 16)).train.images
    assert grey.shape == (5, 1, 8, 16) and grey[0, 0, 0, 8] == 200 and grey[0, 0, 0, 0] == 0
    assert load_data(tmp_path).shape == (3, 4, 8)


def test_grey_pictures_stay_grey_unless_asked(tmp_path: Path) -> None:
    cells = [{"bytes": png(i, mode="L")} for i in range(6)]
    parquet.write_table(table([0, 1] * 3, cells=cells), tmp_path / "all.parquet")
    assert load_data(tmp_path).shape == (1, 4, 4)
    assert torch.equal(load_data(tmp_path, input_shape=(3, 4, 4)).train.images[:, :1], load_data(tmp_path).train.images)
    with pytest.raises(DataError, match=r"1xHxW .grey. or 3xHxW .RGB., not 4x4x4"):
        load_data(tmp_path, input_shape=(4, 4, 4))


def test_sizes_that_differ_are_an_error_until_a_size_is_asked(tmp_path: Path) -> None:
    cells = [{"bytes": png(0)}, {"bytes": png(1, size=(6, 5))}] * 3
    parquet.write_table(table([0, 1] * 3, cells=cells), tmp_path / "all.parquet")
    with pytest.raises(DataError, match=r"first is 4x4, .*row \d is 5x6. Try: input_shape=\(3, 4, 4\)"):
        load_data(tmp_path)
    assert load_data(tmp_path, input_shape=(3, 4, 4)).shape == (3, 4, 4)


def test_what_a_model_needs_can_be_required() -> None:
    data = load_data("digits", input_shape=(1, 8, 8))
    data.require(classes=10, input_shape=(1, 8, 8))
    with pytest.raises(DataError, match=r"7 outputs but digits has 10 classes.*num_classes=10"):
        data.require(classes=7)
    with pytest.raises(DataError, match="takes 3x32x32 but digits was loaded as 1x8x8"):
        data.require(input_shape=(3, 32, 32))


# statistics and batches


def test_normalised_training_images_have_zero_mean_and_unit_spread() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    images[:, 2] = 9
    split = Split(images, torch.zeros(50, dtype=torch.int64))
    data = Dataset("noise", split, split, ("one",), *statistics(images))
    x = data.normalise(images).double()
    assert x.mean((0, 2, 3)).abs().max() < 1e-6
    assert x.std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1, 0], abs=1e-6)


def epoch(data: Dataset, **options: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(train_batches(data, **{"batch_size": 32, "seed": 1, "epoch": 0, **options}))


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    data = load_data("digits", input_shape=(1, 8, 8), limit=330)
    first = epoch(data)
    assert len(first) == 330 // 32
    torch.manual_seed(99)
    np.random.seed(99)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, epoch(data), strict=True))
    for other in (epoch(data, seed=2), epoch(data, epoch=1)):
        assert not any(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_starting_late_and_sharing_out_give_the_same_batches(world: int) -> None:
    data = load_data("digits", input_shape=(1, 8, 8), limit=330)
    whole = epoch(data)
    parts = [epoch(data, shard=(rank, world), start=3) for rank in range(world)]
    for step, (x, y) in enumerate(whole[3:]):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), x)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), y)


def test_an_epoch_shows_every_image_once_at_most() -> None:
    data = load_data("digits", input_shape=(1, 8, 8))
    data = replace(data, mean=(0.0,), std=(1 / 255,))
    shown = torch.cat([x for x, _ in epoch(data, augmentation=Augmentation())]).flatten(1)
    there = Counter(row.numpy().tobytes() for row in data.normalise(data.train.images).flatten(1))
    assert len(shown) == 1438 // 32 * 32
    assert Counter(row.numpy().tobytes() for row in shown) <= there, "a picture may stand in the data twice"


def test_a_shift_and_a_flip_are_exactly_that() -> None:
    x = torch.arange(1, 13, dtype=torch.uint8).view(1, 1, 3, 4).repeat(2, 2, 1, 1)
    flip = torch.tensor([False, True])
    out = crop(x, 1, torch.tensor([1, 1]), torch.tensor([1, 1]), flip)
    assert torch.equal(out[0], x[0]) and torch.equal(out[1], x[1].flip(2))
    out = crop(x, 1, torch.tensor([2, 0]), torch.tensor([0, 1]), torch.tensor([False, False]))
    assert out[0, 0].tolist() == [[0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]]
    assert out[1, 1].tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_shows_all_shifts_and_flips_half() -> None:
    x = torch.zeros(2000, 1, 5, 5, dtype=torch.uint8)
    x[:, :, 2, 1] = 255
    split = Split(x, torch.zeros(2000, dtype=torch.int64))
    data = Dataset("dot", split, split, ("one",), (0.0,), (1.0,))
    [(y, _)] = epoch(data, batch_size=2000, augmentation=Augmentation(pad=1, flip=True))
    where = (y[:, 0] > 0.5).float().mean(0)
    assert (where[1:4] > 0.04).all() and where.sum() == pytest.approx(1) and where[0].sum() == where[4].sum() == 0
    assert where[:, 0].sum() == pytest.approx(1 / 6, abs=0.03) and where[:, 2].sum() == pytest.approx(1 / 3, abs=0.04)


def test_characters_are_shifted_only_and_words_flipped_too(tmp_path: Path) -> None:
    assert load_data("digits").augmentation == Augmentation(pad=4, flip=False)
    write_folder(tmp_path, {"cat": 5, "dog": 5}, size=(16, 16))
    assert load_data(tmp_path).augmentation == Augmentation(pad=2, flip=True)
    assert str(load_data(tmp_path).augmentation) == "shift by 2 and flip" and str(Augmentation()) == "none"


def test_test_batches_are_every_image_once_in_order() -> None:
    data = load_data("digits", input_shape=(1, 8, 8))
    whole = torch.cat([y for _, y in test_batches(data, batch_size=100)])
    assert torch.equal(whole, data.test.targets)
    parts = [torch.cat([x for x, _ in test_batches(data, batch_size=100, shard=(rank, 3))]) for rank in range(3)]
    assert torch.equal(torch.cat(parts), data.normalise(data.test.images))


# calibration


def test_calibration_has_every_class_alike_and_says_so() -> None:
    data = load_data("digits", input_shape=(1, 8, 8))
    samples = calibration(data, 100, seed=3, batch_size=40)
    assert [len(y) for _, y in samples] == [40, 40, 20] and len(samples) == 3
    labels = torch.cat([y for _, y in samples])
    assert labels.bincount().tolist() == [10] * 10
    assert all(len(y.unique()) == 10 for _, y in samples), "classes take turns"
    assert str(samples) == "digits train: 100 samples, 10 of each of 10 classes, seed 3"
    again = calibration(data, 100, seed=3, batch_size=40)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(samples, again, strict=True))
    assert list(samples) == list(samples), "it can be walked twice"
    assert "1 or 2 of each" in str(calibration(data, 15))


def test_calibration_that_cannot_be_balanced_is_refused() -> None:
    data = load_data("digits", input_shape=(1, 8, 8), limit=50)
    with pytest.raises(DataError, match="9 calibration samples cannot show all 10 classes"):
        calibration(data, 9)
    with pytest.raises(DataError, match=r"class '.' of digits has . training images, 20 asked"):
        calibration(data, 200)


def uneven(*counts: int) -> Dataset:
    """So many training images of each class."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    split = Split(torch.randint(256, (len(labels), 1, 4, 4), dtype=torch.uint8), labels)
    return Dataset("uneven", split, split, tuple("abcdefgh"[: len(counts)]), (0.5,), (0.2,))


@pytest.mark.parametrize(
    ("counts", "most", "taken"),
    [
        ((600, 2, 400), 2000, [600, 2, 400]),  # fewer than asked: all
        ((600, 2, 398), 100, [60, 1, 39]),  # a rare class shows, and the others do not shrink for it
        ((600, 0, 400), 100, [60, 0, 40]),
        ((5, 5, 5, 5), 3, [1, 1, 1, 1]),
        ((1000, 1, 1, 1), 4, [1, 1, 1, 1]),
        ((100, 100, 100), 150, [50, 50, 50]),
    ],
)
def test_a_stratified_sample_has_every_class_in_proportion(
    counts: tuple[int, ...], most: int, taken: list[int]
) -> None:
    data = uneven(*counts)
    samples = stratified_calibration(data, most, seed=1, batch_size=50)
    labels = torch.cat([y for _, y in samples])
    assert labels.bincount(minlength=len(counts)).tolist() == taken
    images = torch.cat([x for x, _ in samples]).flatten(1)
    assert len(images.unique(dim=0)) == len(images), "none is taken twice"
    assert f"{sum(taken)} samples of {sum(map(bool, counts))} classes, in proportion, seed 1" in str(samples)
    if most == 100:
        half = labels[:50].bincount(minlength=len(counts))
        assert abs(int(half[0]) - 30) <= 1, "batches are mixed alike"


def test_by_default_a_class_of_few_images_gives_all_it_has() -> None:
    samples = calibration(uneven(40, 2, 0, 30))
    assert torch.cat([y for _, y in samples]).bincount().tolist() == [10, 2, 0, 10]
    assert str(samples) == "uneven train: 22 samples, 2 to 10 of each of 3 classes, seed 0"
    with pytest.raises(DataError, match=r"class 'b' of uneven has 2 training images, 5 asked\. Try: n=6, or no n"):
        calibration(uneven(40, 2, 0, 30), 15)


# plain mistakes


HUGGINGFACE = [
    (b"\xff\xfe", "another form"),
    (b"{", "another form"),
    (b"[]", "another form"),
    (b'{"info": null}', "another form"),
    (b'{"info": {"features": [{"name": "label"}]}}', "another form"),
    (b'{"info": {"features": {"label": {"names": 3}}}}', "column 'label' 3, which is not a list"),
    (b'{"info": {"features": {"label": {"names": [1, 2]}}}}', "not a list of text"),
    (b'{"info": {"features": {"label": {"names": ["a", "a"]}}}}', "two classes called 'a'"),
    (b'{"info": {"features": {"label": {"names": ["\\ud800", "b"]}}}}', r"called '\\ud800'"),
    (b'{"info": {"features": {"label": {"names": ["a\\nb", "b"]}}}}', "one line of text"),
    (b'{"info": {"features": {"label": {"names": ["", "b"]}}}}', "called ''"),
]


@pytest.mark.parametrize(("metadata", "message"), HUGGINGFACE)
def test_metadata_of_another_form_is_reported(metadata: bytes, message: str, tmp_path: Path) -> None:
    parquet.write_table(
        table([0, 1] * 5).replace_schema_metadata({b"huggingface": metadata}), tmp_path / "train.parquet"
    )
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)


@pytest.mark.parametrize(
    "metadata",
    [
        {b"huggingface": b'{"fingerprint": "abc"}'},
        {b"huggingface": b'{"info": {"features": {"label": [{"dtype": "int64"}], "img": "x"}}}'},
        {b"pandas": b"\xff no JSON"},
        {b"pandas": b'{"index_columns": ["missing"]}'},
        {b"\xff": b"\xff"},
    ],
)
def test_metadata_of_others_says_nothing_about_classes(metadata: dict[bytes, bytes], tmp_path: Path) -> None:
    parquet.write_table(table([0, 1] * 5).replace_schema_metadata(metadata), tmp_path / "train.parquet")
    assert load_data(tmp_path).classes == ("0", "1")


def test_labels_that_are_lists_of_different_lengths_are_no_classes(tmp_path: Path) -> None:
    parquet.write_table(table([[1], [2, 3]] * 5), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="not classes"):
        load_data(tmp_path)


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"bell\x07"])
def test_class_folders_are_named_in_text(name: bytes, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", {"cat": 5, "dog": 5})
    try:
        os.rename(os.fsencode(tmp_path / "data" / "dog"), os.path.join(os.fsencode(tmp_path / "data"), name))
    except OSError:
        pytest.skip("this file system holds UTF-8 only")
    with pytest.raises(DataError, match=r"class called '[^\n]*\\[^\n]*': a name is one line of text"):
        load_data(tmp_path / "data")


def test_a_folder_of_data_whose_own_name_is_no_text_is_shown_with_escapes(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", {"cat": 5, "dog": 5})
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    try:
        os.rename(tmp_path / "data", strange)
    except OSError:
        pytest.skip("this file system holds UTF-8 only")
    assert load_data(strange).name == "caf\\udce9"


def test_a_picture_above_pillows_limit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "dog" / "3.png").write_bytes(png(0, (40, 40)))
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(DataError, match=r"too large to be decoded safely at .*dog/3\.png.*1600 pixels"):
        load_data(tmp_path, input_shape=(3, 4, 4))


def test_whatever_a_decoder_raises_is_a_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, {"cat": 5, "dog": 5})

    def broken(self: Any) -> None:
        raise IndexError("a fault of a decoder")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    with pytest.raises(DataError, match=r"broken image at .*cat/\d\.png: a fault of a decoder"):
        load_data(tmp_path)


def test_more_images_than_memory_are_refused_before_any_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, {"cat": 5, "dog": 5})
    monkeypatch.setattr("reconvene.utils.resources.machine_memory", lambda: 8 * 48 - 1)
    with pytest.raises(ResourceError, match=r"8 images of 3x4x4 takes .*--limit"):
        load_data(tmp_path)
    assert len(load_data(tmp_path, limit=7).train) == 7


@pytest.mark.parametrize("spec", [3, None, ["digits"]])
def test_data_of_another_type(spec: Any) -> None:
    with pytest.raises(DataError, match="no 'digits', no path and no hub id"):
        load_data(spec)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32)])
def test_batches_are_contiguous_unless_channels_last_is_asked_for(shape: tuple[int, ...]) -> None:
    """A loop of one's own gets images with which PyTorch computes every gradient within its buffer."""
    data = load_data("digits", input_shape=shape, limit=60)
    contiguous, other = (epoch(data, batch_size=8, channels_last=asked)[0][0] for asked in (False, True))
    for images in (contiguous, next(iter(TrainingBatches(data, TrainConfig(batch_size=8))))[0]):
        assert images.stride() == (math.prod(shape), 32 * 32, 32, 1)
    assert other.is_contiguous(memory_format=torch.channels_last) and torch.equal(contiguous, other)


def test_images_of_one_channel_do_not_say_channels_last() -> None:
    """PyTorch would compute a network of few channels in that format, and end the process with a gradient of it."""
    data = load_data("digits", input_shape=(1, 8, 8), limit=200)
    for images in (next(train_batches(data, batch_size=8, seed=0, epoch=0))[0], next(iter(calibration(data)))[0]):
        assert images.stride() == (64, 64, 8, 1)


def test_splits_that_name_their_classes_otherwise_are_refused(tmp_path: Path) -> None:
    """A label is a position in a list of names: with the lists swapped, cats would be judged as dogs."""
    for split, names in (("train", '"cat", "dog"'), ("test", '"dog", "cat"')):
        features = f'{{"info": {{"features": {{"label": {{"names": [{names}], "_type": "ClassLabel"}}}}}}}}'
        content = table([0, 1] * 5).replace_schema_metadata({b"huggingface": features.encode()})
        parquet.write_table(content, tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=r"train \['cat', 'dog'\], test \['dog', 'cat'\]"):
        load_data(tmp_path, input_shape=(3, 8, 8))
