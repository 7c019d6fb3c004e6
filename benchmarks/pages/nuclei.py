"""The table of docs/trained.md about nuclei."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean
from typing import Any

from nuclei import ARMS, DENSE, METRICS, RESULTS
from rows import read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("trained.md", "nuclei")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(read_rows(RESULTS)), write=write)


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds as a table of the page."""
    if not rows:
        return "*Not measured yet.*\n"
    head = ["arm", "seeds", "parameters", "PQ as cut", "PQ repaired", "PQ", "AJI", "Dice", "latency"]
    lines = [f"{rows[0]['conditions']['data']}:", "", _line(head)]
    lines.append(_line(["---"] * len(head)))
    lines += [_line(cells) for cells in _cells(rows)]
    return "\n".join(lines) + "\n"


def _cells(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    whole = mean(row["params"] for row in rows if row["arm"]["name"] == DENSE.name)
    for arm in (DENSE, *ARMS):
        same = [row for row in rows if row["arm"]["name"] == arm.name]
        if not same:
            continue
        values = {name: [row[name] for row in same] for name in ("pq_as_cut", "pq_repaired", *METRICS, "latency")}
        numbers = ["" if None in column else f"{mean(column):.3f}" for column in values.values()]
        yield [arm.name, str(len(same)), f"{mean(row['params'] for row in same) / whole:.0%}", *numbers]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
