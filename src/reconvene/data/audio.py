"""Sound as pictures: log-mel spectrograms, which every network for images takes."""

from __future__ import annotations

import io
import wave
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from reconvene.data.source import import_data_extra
from reconvene.utils.arrays import Floats

if TYPE_CHECKING:
    from PIL.Image import Image

BANDS = 64
"""Mel bands, and frames that a clip becomes: pictures are square, so that they fit any square input."""
WINDOW, HOP = 0.025, 0.01
"""Seconds."""
RANGE = 80.0
"""Decibels between the loudest value of a clip, which is white, and black."""


def log_mel(content: bytes) -> Image:
    """A wav file as a grey picture of ``BANDS`` x ``BANDS``: high bands at the bottom, time from left to right.

    Power in 25 ms windows every 10 ms, summed by triangular mel filters, in decibels below the loudest value of the
    clip. A clip of any length is stretched to the width of the picture, so the pictures of short and long words differ
    in scale of time.

    Raises:
        ValueError: it is no wav file of whole numbers, or holds no sample.
    """
    image: Any = import_data_extra("PIL.Image", "pillow", "pictures of sound")
    samples, rate = _samples(content)
    window, hop = max(round(WINDOW * rate), 2), max(round(HOP * rate), 1)
    padded = np.pad(samples, (0, max(window - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    size = 2 ** int(np.ceil(np.log2(2 * window)))
    power = np.abs(np.fft.rfft(frames * np.hanning(window), n=size)) ** 2
    mel = power @ _filters(rate, size).T
    decibels = 10 * np.log10(np.maximum(mel, 1e-12 * max(float(mel.max()), 1e-12)))
    grey = np.clip((decibels - decibels.max()) / RANGE + 1, 0, 1) * 255
    picture: Image = image.fromarray(np.round(grey.T).astype(np.uint8))
    return picture.resize((BANDS, BANDS), image.Resampling.BILINEAR)


def _samples(content: bytes) -> tuple[Floats, int]:
    """The samples of all channels together, and how many a second."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"no wav file ({error})") from error
    data = data[: len(data) // (width * channels) * width * channels]
    if not data or rate <= 0:
        raise ValueError("a wav file without samples")
    if width == 3:  # numpy has no integers of 24 bits: a byte of zeros below makes them 32
        raw = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = np.pad(raw, ((0, 0), (1, 0))).copy().view("<i4").ravel().astype(np.float64)
    else:
        values = np.frombuffer(data, {1: "u1", 2: "<i2", 4: "<i4"}[width]).astype(np.float64)
        values -= 128.0 if width == 1 else 0.0
    return values.reshape(-1, channels).mean(axis=1) / 2 ** (8 * (4 if width == 3 else width) - 1), rate


@cache
def _filters(rate: int, size: int) -> Floats:
    """Triangles on the mel scale (O'Shaughnessy 1987), ``[BANDS, size / 2 + 1]``, each of area one."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    frequencies = np.arange(size // 2 + 1) * rate / size
    rising = (frequencies - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - frequencies) / np.diff(corners)[1:, None]
    triangles = np.maximum(np.minimum(rising, falling), 0)
    filters: Floats = triangles / np.maximum(triangles.sum(axis=1, keepdims=True), 1e-12)
    return filters
