"""The log of a run: JSON lines, the first about the run, then one an epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reconvene.errors import TrainingError
from reconvene.utils.files import write_atomic

LOG_NAME = "train.jsonl"
_Record = dict[str, Any]


def read_log(directory: str | os.PathLike[str]) -> list[_Record]:
    """The records of ``train.jsonl``: the first has ``event`` ``start``, the others ``epoch``, one for every epoch.

    Raises:
        TrainingError: there is no log, or a line of it is damaged.
    """
    path = Path(directory) / LOG_NAME
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise TrainingError(f"no training log at {path}: nothing was trained there.") from error
    except (OSError, ValueError) as error:
        raise TrainingError(f"the training log {path} cannot be read: {error}.") from error


def rewrite_log(directory: Path, records: Sequence[_Record]) -> None:
    """Make the log hold exactly these records: what a killed run wrote after its last checkpoint goes."""
    write_atomic(directory / LOG_NAME, "".join(_line(record) for record in records).encode(), error=TrainingError)


def append_log(directory: Path, record: _Record) -> None:
    """Add one record, on the disk before this returns."""
    try:
        with (directory / LOG_NAME).open("a", encoding="utf-8") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise TrainingError(f"cannot write to the log {directory / LOG_NAME}: {error}.") from error


def _line(record: _Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
