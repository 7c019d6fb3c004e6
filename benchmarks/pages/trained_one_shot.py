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


Kind = tuple[str, str, float, int, bool, int]


def kind_of(row: dict[str, Any]) -> Kind:
    """What rows of one table share: model, data, width, epochs, whether rivals are in it, epochs of tuning."""
    choices = {**USUAL, **row}
    model, data, width, epochs, rivals, tune = (
        choices[name] for name in ("model", "data", "width", "epochs", "rivals", "tune")
    )
    return model, data, width, epochs, rivals, tune


def of_kind(kind: Kind, rows: list[dict[str, Any]]) -> str:
    """One table; what was not done of an arm is a dash."""
    model, data, width, *_ = kind
    name = model if width == 1.0 else f"{model} of width {width:g}"
    dense = sum(row["dense"] for row in rows) / len(rows)
    seeds = f"{len(rows)} seed{'s' if len(rows) > 1 else ''}"
    lines = [f"{name}, {data}; {rows[0]['epochs']} epochs, {seeds}; dense {dense:.1%}:", ""]
    tuned = rows[0].get("tune", 0)
    heads = ["MACs", "criterion", "as cut", *WAYS[1:], *([f"tuned, {tuned} epochs"] if tuned else [])]
    lines += [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for macs, criterion in dict.fromkeys((arm["macs"], arm["criterion"]) for row in rows for arm in row["arms"]):
        arms = [arm for row in rows for arm in row["arms"] if (arm["macs"], arm["criterion"]) == (macs, criterion)]
        means = [mean(arms, how) for how in (*WAYS, *(["tuned"] if tuned else []))]
        lines.append(f"| 1/{macs[:-1]} | `{criterion}` | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def mean(arms: list[dict[str, Any]], how: str) -> str:
    """Mean accuracy of an arm after one repair, or tuned; says over how many seeds where others were not tuned."""
    known = [arm[how] if how == "tuned" else arm[how]["accuracy"] for arm in arms if how in arm]
    if not known:
        return "-"
    return f"{sum(known) / len(known):.1%}" + (f" ({len(known)} of {len(arms)})" if len(known) < len(arms) else "")
