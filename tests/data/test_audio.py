"""Sound in tables as log-mel pictures."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest

from reconvene.data import load_data
from reconvene.data.audio import BANDS, log_mel
from reconvene.errors import DataError

pytest.importorskip("pyarrow")


def tone(frequency: float, *, seconds: float = 0.3, rate: int = 8000, width: int = 2) -> bytes:
    """A wav file of one tone."""
    wanted = np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(
            (wanted * 30000).astype("<i2").tobytes() if width == 2 else (wanted * 99 + 128).astype("u1").tobytes()
        )
    return file.getvalue()


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 3000.0])
@pytest.mark.parametrize("width", [1, 2])
def test_a_tone_is_a_line_in_the_band_of_its_frequency(frequency: float, width: int) -> None:
    picture = np.asarray(log_mel(tone(frequency, width=width))).astype(float)
    assert picture.shape == (BANDS, BANDS) and picture.max() == 255

    def mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    band = mel(frequency) / mel(4000) * (BANDS + 1) - 1
    loudest = picture[:, 8:-8].mean(axis=1).argmax()
    assert abs(loudest - band) <= 1


def test_a_table_of_sound_is_data_that_is_never_mirrored(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    names, frequencies = ["low", "high"] * 4, [300.0, 2500.0] * 4
    cells = [{"bytes": tone(f), "path": None} for f in frequencies]
    for split in ("train", "test"):
        table = pyarrow.table({"audio": cells, "label": names})
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    data = load_data(tmp_path, input_shape=(1, 16, 16))
    assert data.classes == ("high", "low") and data.shape == (1, 16, 16)
    assert not data.augmentation.flip and data.augmentation.pad
    loudest = data.train.images[:, 0].float().mean(dim=2).argmax(dim=1)
    assert loudest[data.train.targets == 0].min() > loudest[data.train.targets == 1].max()


def test_what_is_no_sound_is_named(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    cells = [{"bytes": b"RIFF of nothing", "path": None}] * 2
    pyarrow.parquet.write_table(pyarrow.table({"audio": cells, "label": [0, 1]}), tmp_path / "train.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"audio": cells, "label": [0, 1]}), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="no wav file"):
        load_data(tmp_path, input_shape=(1, 16, 16))
