"""The part of docs/compress.md about a recipe that was killed again and again."""

from __future__ import annotations

from killed_recipe import RESULTS
from rows import read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("compress.md", "killed recipe")


def update(*, write: bool = True) -> bool:
    """Write the part; returns whether the page held another one."""
    return PART.update(text(), write=write)


def text() -> str:
    """What each recipe printed, and what its folder held after the kills."""
    parts = []
    for row in read_rows(RESULTS):
        different = ", ".join(f"`{name}`" for name in row["different"])
        same = f"all {row['files']} weights, ONNX files and plans are the same"
        outcome = f"these files differ: {different}" if different else same
        parts.append(f"```\n{row['table']}\n```\n\nKilled {row['kills']} times and started again: {outcome}.\n")
    return "\n".join(parts)
