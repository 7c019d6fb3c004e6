"""Rows of results on disk, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none where it does not exist yet."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def add_row(path: Path, row: Row) -> None:
    """Append a row."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def put_row(path: Path, row: Row, *, same: Sequence[str]) -> None:
    """Write a row in place of the one with the same values under these keys, if there is one."""
    others = [other for other in read_rows(path) if any(other[key] != row[key] for key in same)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in [*others, row]), encoding="utf-8")
