"""From an image file to what a model takes: a part of what runs on a device.

Only the standard library and numpy are used, and nothing newer than Python 3.9. Pixels come out as training saw them:
``normalise`` is ``Dataset.normalise`` and ``resize`` is Pillow's bilinear filter, to the bit. Releases of Pillow differ
in which axis they scale first; along both axes a pixel may so be one level of 255 off.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .files import Refused

Array = Any  # numpy.ndarray, whose parameters differ between the releases of numpy that devices have
# Images of these modes are what training reads too; others (16 bits a channel, floats) would be read differently.
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
MAX_PIXELS = 2**28
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def normalise(images: Array, settings: dict[str, Any]) -> Array:
    """From uint8 ``[B, C, h, w]`` to float32: the same arithmetic as in training, bit for bit."""
    mean, std = (np.asarray(settings[key], np.float32) * np.float32(255) for key in ("mean", "std"))
    return (images.astype(np.float32) - mean[:, None, None]) / std[:, None, None]


def scale_to_cover(pixels: Array, shape: list[int]) -> Array:
    """From uint8 ``[H, W, 1 or 3]`` to uint8 ``[C, h, w]``: scaled to cover (bilinear), the middle cut out."""
    channels, height, width = shape
    if channels == 1 and pixels.shape[2] == 3:  # ITU-R 601, in the integers of Pillow
        weights = np.asarray([19595, 38470, 7471], np.int64)
        pixels = ((pixels @ weights + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    if channels == 3 and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    tall, wide = max(height, round(pixels.shape[0] * scale)), max(width, round(pixels.shape[1] * scale))
    if max(tall, pixels.shape[0]) * wide > MAX_PIXELS:
        raise Refused(f"an image of {pixels.shape[1]}x{pixels.shape[0]} is too long and thin to cover {width}x{height}")
    pixels = resize(resize(pixels, wide, axis=1), tall, axis=0)
    left, top = (wide - width) // 2, (tall - height) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width].transpose(2, 0, 1))


def resize(pixels: Array, size: int, axis: int) -> Array:
    """Bilinear with antialiasing along one axis, in the fixed-point arithmetic of Pillow: the pixels of training."""
    length = pixels.shape[axis]
    if length == size:
        return pixels
    scale = length / size
    support = max(scale, 1.0)
    centers = (np.arange(size) + 0.5) * scale
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + support + 0.5).astype(np.int64), length)
    taps = np.arange(int(np.ceil(support)) * 2 + 1)
    positions = first[:, None] + taps
    weights = np.maximum(1.0 - np.abs((positions - centers[:, None] + 0.5) * (1.0 / support)), 0.0) * (
        positions < last[:, None]
    )
    total_weights = np.cumsum(weights, axis=1)[:, -1:]  # added one after the other: numpy's sum would round otherwise
    fixed = (weights / total_weights * (1 << 22) + 0.5).astype(np.int64)
    positions = np.minimum(positions, length - 1)
    shape = [-1 if i == axis else 1 for i in range(3)]
    total: Array = np.int64(1 << 21)
    for tap in taps:
        total = total + np.take(pixels, positions[:, tap], axis).astype(np.int64) * fixed[:, tap].reshape(shape)
    return np.clip(total >> 22, 0, 255).astype(np.uint8)


def decode_image(path: Path) -> tuple[Array, str]:
    """Pixels uint8 ``[H, W, 1 or 3]`` of an image file, and in words how it was read. Transparency is ignored."""
    if not path.is_file():
        raise Refused(f"there is no file {path}")
    data = path.read_bytes()
    if data[:6] == b"\x93NUMPY":
        return _shaped(read_npy(data, path), path), "by numpy"
    if data[:2] in (b"P5", b"P6"):
        return read_pnm(data, path), "by run.py itself"
    try:
        import PIL.Image as pillow
    except ImportError:
        if data[:8] == PNG_MAGIC:
            return read_png(data, path), "by run.py itself (with Pillow installed this is faster)"
        raise Refused(f"{path} is not a PNG, PPM, PGM or NPY; other images need Pillow (pip install pillow)") from None
    try:
        with pillow.open(path) as picture:
            if picture.mode not in _MODES:
                raise Refused(f"{path} is an image of mode {picture.mode}. Known modes: {', '.join(_MODES)}")
            grey = picture.mode in ("1", "L", "LA")
            return _shaped(np.asarray(picture.convert("L" if grey else "RGB")), path), "by Pillow"
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise Refused(f"{path} is not an image that Pillow can read: {error}") from error


def read_npy(data: bytes, name: object) -> Array:
    """The array in the bytes of an NPY file; one that holds Python objects is refused."""
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, OverflowError) as error:
        raise Refused(f"{name} is not a plain NPY file: {error}") from error


def read_pnm(data: bytes, path: Path) -> Array:
    """A binary grey (P5) or colour (P6) image of 8 bits a channel."""
    fields: list[bytes] = []
    position = 0
    while len(fields) < 4 and position < len(
        data
    ):  # magic, width, height, largest value; comments run to the end of a line
        if data[position : position + 1] == b"#":
            position = (data.find(b"\n", position) + 1) or len(data)
        elif data[position : position + 1].isspace():
            position += 1
        else:
            start = position
            while position < len(data) and not data[position : position + 1].isspace():
                position += 1
            fields.append(data[start:position])
    try:
        width, height, largest = (int(word) for word in fields[1:])
    except ValueError as error:
        raise Refused(f"{path} has a damaged header") from error
    if largest != 255 or min(width, height) < 1:
        raise Refused(f"{path} is {width}x{height} with values up to {largest}; 8 bits a channel (255) are read")
    channels = 3 if fields[0] == b"P6" else 1
    pixels = np.frombuffer(data[position + 1 :], np.uint8)
    if pixels.size < width * height * channels:
        raise Refused(f"{path} is truncated: {pixels.size} of {width * height * channels} bytes of pixels")
    return pixels[: width * height * channels].reshape(height, width, channels)


def read_png(data: bytes, path: Path) -> Array:
    """A PNG of up to 8 bits a channel, not interlaced; transparency is ignored (PNG specification, third edition)."""
    header, palette, packed, position = b"", np.zeros((256, 3), np.uint8), bytearray(), 8
    try:
        while position < len(data):
            length, chunk_type = struct.unpack(">I4s", data[position : position + 8])
            body = data[position + 8 : position + 8 + length]
            if struct.unpack(">I", data[position + 8 + length : position + 12 + length])[0] != zlib.crc32(
                chunk_type + body
            ):
                raise Refused(f"{path} is damaged: the checksum of a part does not fit")
            if chunk_type == b"IHDR":
                header = body
            elif chunk_type == b"PLTE":
                palette[: length // 3] = np.frombuffer(body, np.uint8).reshape(-1, 3)
            elif chunk_type == b"IDAT":
                packed += body
            position += 12 + length
        width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    except (struct.error, ValueError) as error:
        raise Refused(f"{path} is truncated or damaged: {error}") from error
    if interlaced or bits > 8 or colour not in PNG_CHANNELS:
        raise Refused(f"{path} is interlaced or has {bits} bits a channel: save it plainly, with 8, or install Pillow")
    if width * height > MAX_PIXELS:
        raise Refused(f"{path} has {width}x{height} pixels, and at most {MAX_PIXELS:,} are read")
    channels = PNG_CHANNELS[colour]
    stride = (width * channels * bits + 7) // 8
    try:  # a few bytes may unpack to all memory: no more than the pixels need
        raw = np.frombuffer(zlib.decompressobj().decompress(packed, height * (stride + 1) + 1), np.uint8)
    except zlib.error as error:
        raise Refused(f"{path} is truncated or damaged: {error}") from error
    if raw.size != height * (stride + 1) or not raw.size:
        raise Refused(f"{path} is truncated: {raw.size} of {height * (stride + 1)} bytes of pixels")
    rows = _unfilter(raw.reshape(height, stride + 1), max(1, channels * bits // 8), path)
    if bits < 8:
        shifts = np.arange(8 - bits, -1, -bits)
        rows = ((rows[:, :, None] >> shifts) & (2**bits - 1)).astype(np.uint8).reshape(height, -1)[:, :width]
        rows = rows if colour == 3 else rows * np.uint8(255 // (2**bits - 1))
    pixels = rows.reshape(height, width, channels)
    if colour == 3:
        return palette[pixels[:, :, 0]]
    return pixels[:, :, :3] if channels > 2 else pixels[:, :, :1]


def _unfilter(rows: Array, step: int, path: Path) -> Array:
    """Undo the filter of every row; ``step`` bytes lie between a byte and its left neighbour."""
    above = np.zeros(rows.shape[1] - 1, np.uint8)
    out = np.empty((len(rows), len(above)), np.uint8)
    for y, row in enumerate(rows):
        filter_type, values = int(row[0]), row[1:]
        if filter_type == 0:
            out[y] = values
        elif filter_type == 1:
            out[y] = np.cumsum(values.reshape(-1, step), axis=0, dtype=np.uint8).reshape(-1)
        elif filter_type == 2:
            out[y] = values + above
        elif filter_type in (3, 4):
            out[y] = _from_neighbours(values.tolist(), above.tolist(), step, paeth=filter_type == 4)
        else:
            raise Refused(f"{path} is damaged: a row has filter {filter_type}")
        above = out[y]
    return out


def _from_neighbours(values: list[int], above: list[int], step: int, *, paeth: bool) -> list[int]:
    """Filters Average and Paeth, where every byte needs the one before it."""
    left, corner = [0] * step, [0] * step
    for i, value in enumerate(values):
        a, b, c = left[i % step], above[i], corner[i % step]
        if paeth:
            distances = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            guess = (a, b, c)[distances.index(min(distances))]
        else:
            guess = (a + b) // 2
        values[i] = left[i % step] = (value + guess) & 255
        corner[i % step] = b
    return values


def _shaped(pixels: Array, path: Path) -> Array:
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        raise Refused(f"{path} holds {pixels.dtype} {pixels.shape}; an image is uint8 [H, W], [H, W, 1] or [H, W, 3]")
    return pixels
