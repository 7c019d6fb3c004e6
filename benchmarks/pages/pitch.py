"""The table of docs/trained.md: a trained network of pitch at half of its parameters."""

from __future__ import annotations

from statistics import mean

from pitch import RESULTS
from rows import read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("trained.md", "pitch")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """Raw pitch accuracy at every stage, a line a seed."""
    rows = read_rows(RESULTS)
    stages = list(rows[0]["accuracy"]) if rows else []
    lines = ["| parameters, seed | " + " | ".join(stages) + " |", "| --- |" + " --- |" * len(stages)]
    for row in rows:
        before, after = (row["costs"][which]["params"] for which in ("dense", "pruned"))
        cells = [f"{row['accuracy'][stage]:.1%}" for stage in stages]
        lines.append(f"| {before:,} to {after:,}, {row['seed']} | " + " | ".join(cells) + " |")
    if rows:
        means = [f"{mean(row['accuracy'][stage] for row in rows):.1%}" for stage in stages]
        lines.append("| mean | " + " | ".join(means) + " |")
    return "\n".join(lines) + "\n"
