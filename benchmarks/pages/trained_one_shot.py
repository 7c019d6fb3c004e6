"""The table of docs/trained.md about accuracy right after the cut."""

from __future__ import annotations

from typing import Any

from rows import read_rows
from trained_one_shot import RESULTS, USUAL, WAYS

from pages.generated_part import GeneratedPart

PART = GeneratedPart("trained.md", "one shot")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """The results as they stand in docs/trained.md: a table for each data set, means over its seeds."""
    rows = read_rows(RESULTS)
    kinds = sorted({kind_of(row) for row in rows})
    return "\n".join(of_kind(kind, [row for row in rows if kind_of(row) == kind]) for kind in kinds)


def kind_of(row: dict[str, Any]) -> tuple[str, str, float, int, bool]:
    """What rows of one table share: model, data, width, epochs, and whether rivals are in it."""
    choices = {**USUAL, **row}
    return choices["model"], choices["data"], choices["width"], choices["epochs"], choices["rivals"]


def of_kind(kind: tuple[str, str, float, int, bool], rows: list[dict[str, Any]]) -> str:
    """One table; what was not done of an arm is a dash."""
    model, data, width, *_ = kind
    name = model if width == 1.0 else f"{model} of width {width:g}"
    dense = sum(row["dense"] for row in rows) / len(rows)
    seeds = f"{len(rows)} seed{'s' if len(rows) > 1 else ''}"
    lines = [f"{name}, {data}; {rows[0]['epochs']} epochs, {seeds}; dense {dense:.1%}:", ""]
    lines += ["| MACs | criterion | as cut | recalibrate | reconstruct |", "| --- | --- | --- | --- | --- |"]
    for number, arm in enumerate(rows[0]["arms"]):
        means = [mean([row["arms"][number] for row in rows], how) for how in WAYS]
        lines.append(f"| 1/{arm['macs'][:-1]} | `{arm['criterion']}` | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def mean(arms: list[dict[str, Any]], how: str) -> str:
    """Mean accuracy of an arm after one repair."""
    if how not in arms[0]:
        return "-"
    return f"{sum(arm[how]['accuracy'] for arm in arms) / len(arms):.1%}"
