"""The table of docs/trained.md about accuracy right after the cut."""

from __future__ import annotations

from typing import Any

from rows import read_rows
from trained_one_shot import RESULTS, WAYS

from pages.generated_part import GeneratedPart

PART = GeneratedPart("trained.md", "one shot")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """The results as they stand in docs/trained.md: a table for each data set, means over its seeds."""
    rows = read_rows(RESULTS)
    names = sorted({row["data"] for row in rows})
    return "\n".join(of_data(name, [row for row in rows if row["data"] == name]) for name in names)


def of_data(data: str, rows: list[dict[str, Any]]) -> str:
    """One table."""
    dense = sum(row["dense"] for row in rows) / len(rows)
    seeds = f"{len(rows)} seed{'s' if len(rows) > 1 else ''}"
    lines = [f"{data}; {rows[0]['epochs']} epochs, {seeds}; dense {dense:.1%}:", ""]
    lines += ["| MACs | criterion | as cut | recalibrate | reconstruct |", "| --- | --- | --- | --- | --- |"]
    for number, arm in enumerate(rows[0]["arms"]):
        means = [sum(row["arms"][number][how]["accuracy"] for row in rows) / len(rows) for how in WAYS]
        lines.append(f"| 1/{arm['macs'][:-1]} | `{arm['criterion']}` | {' | '.join(f'{mean:.1%}' for mean in means)} |")
    return "\n".join(lines) + "\n"
