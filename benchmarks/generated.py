"""Rows of results on disk, and the part of a page that is generated from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of JSON lines; none where it does not exist yet."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def add_row(path: Path, row: Row) -> None:
    """Append a row."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class GeneratedPart:
    """The text between two marks of a page; ``begin`` stands in the page once."""

    page: Path
    begin: str
    end: str

    def update(self, text: str, *, write: bool = True) -> int:
        """Put ``text`` there; without ``write`` only look. Returns 1 where the page held another text, else 0."""
        old = self.page.read_text(encoding="utf-8")
        before, rest = old.split(self.begin)
        new = before + self.begin + text + rest[rest.index(self.end) :]
        if write and new != old:
            self.page.write_text(new, encoding="utf-8")
        return int(new != old)
