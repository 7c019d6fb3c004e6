"""The table of docs/distillation.md: whether a teacher helps a pruned network."""

from __future__ import annotations

from statistics import fmean

from distillation import RESULTS
from rows import read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("distillation.md", "distillation")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """The results as they stand in docs/distillation.md: a column a seed, and what each way adds to labels alone."""
    rows = [row["accuracy"] for row in read_rows(RESULTS)]
    seeds = [f"seed {row['seed']}" for row in read_rows(RESULTS)]
    lines = [f"| trained with | {' | '.join(seeds)} | mean | beside labels |", "| --- |" + " --- |" * (len(rows) + 2)]
    for arm in rows[0]:
        values = " | ".join(f"{row[arm]:.1%}" for row in rows)
        added = 100 * fmean(row[arm] - row["labels"] for row in rows)
        lines.append(f"| {arm} | {values} | {fmean(row[arm] for row in rows):.1%} | {added:+.1f} points |")
    return "\n".join(lines) + "\n"
