"""What a device makes of an image file is, to the bit, what training made of it."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from reconvene.data import Augmentation, Dataset, Split
from reconvene.deploy.on_device.images import (
    Refused,
    decode_image,
    normalise,
    read_npy,
    read_png,
    resize,
    scale_to_cover,
)

Image = pytest.importorskip("PIL.Image")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise with smooth parts, so that filters of PNG find something to predict."""
    rng = np.random.default_rng([seed, *shape])
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1]) * 2)[:, :, None] % 256
    coarse = rng.integers(0, 2, size=(shape[0], 1, 1)) * rng.integers(0, 256, size=shape)
    return ((ramp + coarse) % 256).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_pillows(channels: int) -> None:
    """Along one axis to the bit; along both, releases of Pillow choose one order or the other."""
    rng = np.random.default_rng(channels)
    for _ in range(60):
        height, width, tall, wide = (int(size) for size in rng.integers(1, 70, size=4))
        pixels = noise(height, width, channels)
        one = resize(pixels, wide, axis=1)
        assert np.array_equal(one, by_pillow(pixels, wide, height)), (height, width, wide)
        assert np.array_equal(resize(pixels, tall, axis=0), by_pillow(pixels, width, tall)), (height, width, tall)
        difference = resize(one, tall, axis=0).astype(int) - by_pillow(pixels, wide, tall)
        assert abs(difference).max() <= 1, (height, width, tall, wide)


def by_pillow(pixels: np.ndarray, wide: int, tall: int) -> np.ndarray:
    picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    return np.asarray(picture.resize((wide, tall), Image.Resampling.BILINEAR)).reshape(tall, wide, pixels.shape[2])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (100, 37), (31, 90), (1, 5), (33, 32)])
def test_fitting_is_what_training_does(channels: int, size: tuple[int, int]) -> None:
    from reconvene.data.decode import _covering

    picture = Image.fromarray(noise(*size, 3))
    wanted = picture.convert("L" if channels == 1 else "RGB")
    if size != (32, 32):
        wanted = _covering(wanted, 32, 32, nearest=False)
    expected = np.asarray(wanted).reshape(32, 32, channels).transpose(2, 0, 1)
    assert abs(scale_to_cover(np.asarray(picture), [channels, 32, 32]).astype(int) - expected).max() <= (
        size != (32, 32)
    )


def test_normalising_is_what_training_does_to_the_bit() -> None:
    images = torch.from_numpy(noise(40, 30, 3).transpose(2, 0, 1)[None].copy())
    split = Split(images, torch.zeros(1, dtype=torch.int64))
    data = Dataset("one", split, split, ("a", "b"), (0.1, 0.45, 0.7), (0.3, 0.21, 1.0), Augmentation())
    assert np.array_equal(normalise(images.numpy(), data.preprocessing.to_dict()), data.normalise(images).numpy())


def test_what_cannot_be_an_image_of_that_shape_is_refused() -> None:
    with pytest.raises(Refused, match="too long and thin"):
        scale_to_cover(np.zeros((1, 2_000_000, 3), np.uint8), [3, 224, 224])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_without_pillow_is_png_with_pillow(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, size in enumerate([(1, 1), (17, 23), (40, 9)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(noise(*size, 4)).convert("RGB" if mode == "P" else "RGBA").convert(mode).save(path)
        with_pillow, how = decode_image(path)
        assert how == "by Pillow"
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "PIL", None)
            patch.setitem(sys.modules, "PIL.Image", None)
            alone, how = decode_image(path)
        assert "run.py itself" in how
        assert np.array_equal(alone, with_pillow)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("colour", [0, 3])
def test_png_of_few_bits(bits: int, colour: int, tmp_path: Path) -> None:
    levels = noise(11, 13, 1)[:, :, 0] % 2**bits
    packed = np.packbits(np.unpackbits(levels[:, :, None], axis=2)[:, :, 8 - bits :].reshape(11, -1), axis=1)
    palette = noise(2**bits, 1, 3).tobytes() if colour == 3 else None
    data = png(np.pad(packed, ((0, 0), (1, 0))), 13, bits, colour, palette)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB" if colour == 3 else "L")).reshape(11, 13, -1)
    assert np.array_equal(read_png(data, tmp_path), expected)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_filter_of_png(kind: int, channels: int, tmp_path: Path) -> None:
    """Random bytes under each filter: Pillow says what they mean."""
    height, width = 9, 14
    rows = np.random.default_rng(kind).integers(0, 256, size=(height, 1 + width * channels), dtype=np.uint8)
    rows[:, 0] = kind
    data = png(rows, width, 8, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB" if channels > 2 else "L"))
    assert np.array_equal(read_png(data, tmp_path), expected.reshape(height, width, -1))


def png(
    pixels: np.ndarray,
    width: int,
    bits: int,
    colour: int,
    palette: bytes | None = None,
    interlaced: int = 0,
    rows: int | None = None,
) -> bytes:
    """``rows``: as many as the header claims, where that is not so many as there are."""

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, len(pixels) if rows is None else rows, bits, colour, 0, 0, interlaced)
    colours = part(b"PLTE", palette) if palette else b""
    whole = zlib.compress(pixels.astype(np.uint8).tobytes())
    data = part(b"IDAT", whole[: len(whole) // 2]) + part(b"IDAT", whole[len(whole) // 2 :])
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + colours + data + part(b"IEND", b"")


GOOD = png(np.zeros((4, 13), np.uint8), 4, 8, 2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (GOOD[:30], "truncated or damaged"),
        (GOOD[:-30], "truncated"),
        (GOOD[:20] + b"\x07" + GOOD[21:], "checksum of a part"),
        (png(np.zeros((3, 13), np.uint8), 5, 8, 2), "truncated"),
        (png(np.zeros((4, 25), np.uint8), 4, 16, 2), "16 bits a channel"),
        (png(np.zeros((4, 13), np.uint8), 4, 8, 2, interlaced=1), "interlaced"),
        (png(np.full((4, 13), 9), 4, 8, 2), "filter 9"),
        (png(np.zeros((1, 13), np.uint8), 4, 8, 2, rows=2**30), "and at most"),
        (png(np.zeros((4000, 13), np.uint8), 4, 8, 2, rows=4), "truncated: 53 of 52"),
    ],
)
def test_a_png_that_cannot_be_read_says_why(data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=said):
        read_png(data, tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_pnm_and_npy(channels: int, tmp_path: Path) -> None:
    pixels = noise(5, 7, channels)
    header = b"P6" if channels == 3 else b"P5"
    (tmp_path / "a.pnm").write_bytes(header + b" # made by hand\n7 5\n#\n255\n" + pixels.tobytes())
    np.save(tmp_path / "a.npy", pixels)
    for name in ("a.pnm", "a.npy"):
        assert np.array_equal(decode_image(tmp_path / name)[0], pixels)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"P6\n7 5\n255\nabc", "truncated: 3 of 105"),
        (b"P6\n7 five\n255\n", "damaged header"),
        (b"P5\n7 5\n65535\n" + bytes(70), "8 bits a channel"),
        (b"P5\n7 5", "damaged header"),
        (b"\x93NUMPY", "not a plain NPY"),
        (b"GIF89a", "not an image that Pillow can read"),
    ],
)
def test_other_images_that_cannot_be_read_say_why(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(Refused, match=said):
        decode_image(tmp_path / "a")


def test_formats_that_only_pillow_reads_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.jpg")
    assert decode_image(tmp_path / "a.jpg")[0].shape == (8, 8, 3)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(Refused, match="pip install pillow"):
        decode_image(tmp_path / "a.jpg")


def test_16_bits_are_refused_with_pillow_too(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4)).save(tmp_path / "a.png")
    with pytest.raises(Refused, match="mode I;16"):
        decode_image(tmp_path / "a.png")


def test_arrays_that_hold_objects_or_no_pixels_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(Refused, match="plain NPY"):
        read_npy(file.getvalue(), "a.npy")
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 3), np.float32))
    with pytest.raises(Refused, match="float32"):
        decode_image(tmp_path / "a.npy")
    with pytest.raises(Refused, match="no file"):
        decode_image(tmp_path / "b.png")
