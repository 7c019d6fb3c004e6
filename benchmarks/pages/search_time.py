"""The table of docs/bits.md: processor seconds of a search beside those of PLiNIO."""

from __future__ import annotations

from statistics import median

from rows import Row, read_rows
from search_time import RESULTS

from pages.generated_part import GeneratedPart

PART = GeneratedPart("bits.md", "search time")
HEADER = (
    "| network | data | epochs of search and of fine-tuning | reconvene, s | PLiNIO, s | ratio |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(HEADER + "".join(map(_line, read_rows(RESULTS))), write=write)


def _line(row: Row) -> str:
    own, other = (f"{median(row['seconds'][name]):.1f}" for name in ("reconvene", "PLiNIO"))
    search, finetune = row["epochs"]
    return f"| {row['model']} | {row['data']} | {search} + {finetune} | {own} | {other} | {row['ratio']:.2f} |\n"
