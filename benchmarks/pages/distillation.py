"""The table of docs/distillation.md: whether a teacher helps a pruned network."""

from __future__ import annotations

from distillation import RESULTS
from rows import read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("distillation.md", "distillation")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """The results as they stand in docs/distillation.md: a column a seed."""
    rows = read_rows(RESULTS)
    lines = ["| trained with | " + " | ".join(f"seed {row['seed']}" for row in rows) + " |"]
    lines.append("| --- |" + " --- |" * len(rows))
    for arm in rows[0]["accuracy"]:
        lines.append(f"| {arm} | " + " | ".join(f"{row['accuracy'][arm]:.1%}" for row in rows) + " |")
    return "\n".join(lines) + "\n"
