"""Results as JSON lines: one run a line, appended when it is finished, never half a line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reconvene.errors import ExperimentError
from reconvene.tasks import DEFAULT, Task, task_named

Record = dict[str, Any]
"""What a run gave; the headline of its ``task`` stands in it by its name."""


def task_of(record: Record) -> Task:
    """What was trained for; classification where a release wrote the record that knew no other."""
    return task_named(record.get("task", DEFAULT.name))


def score_of(record: Record) -> float:
    """The headline of the record's task on the test images."""
    return float(record[task_of(record).headline])


def read_results(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a file of results; none where there is no file. A line cut short by a crash is left out.

    Raises:
        ExperimentError: a line before the last is no result.
    """
    file = Path(path)
    if not file.exists():
        return []
    records: list[Record] = []
    lines = file.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines) - 1:  # what follows the last newline was never finished
                continue
            raise ExperimentError(f"{file}, line {number + 1} is not a result: {error}") from error
        if not isinstance(record, dict) or "key" not in record:
            raise ExperimentError(f"{file}, line {number + 1} is not a result: it has no key")
        records.append(record)
    return records


def append_result(path: Path, record: Record) -> None:
    """Add one record, on the disk before this returns.

    A last line without its end is completed where it is a record, and removed where it was cut short.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(0)
            content = file.read()
            start = content.rfind(b"\n") + 1
            if start < len(content):
                try:
                    json.loads(content[start:])
                    file.write(b"\n")
                except ValueError:
                    file.truncate(start)
        file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def of_keys(records: Iterable[Record], keys: Iterable[str]) -> list[Record]:
    """The records of these runs, in the order of the keys; of several for one run the last."""
    last = {record["key"]: record for record in records}
    return [last[key] for key in keys if key in last]


def source_commit() -> str | None:
    """The commit of the sources this runs from, with ``+`` where they differ from it; None outside a checkout."""
    package = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "-C", str(package), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(package), "status", "--porcelain", "--untracked-files=no", "--", str(package.parent)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
