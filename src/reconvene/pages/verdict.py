"""The verdict on top of a report: which file to take, how much faster it is, and what it costs in quality."""

from __future__ import annotations

from typing import Any

from reconvene.pages import headline
from reconvene.pages.data import ReportData
from reconvene.pages.formats import is_below_limits
from reconvene.pages.markup import Html, tag
from reconvene.tasks import task_named
from reconvene.utils import numbers


def verdict(data: ReportData) -> Html | None:
    """The fastest file of the pruned network that keeps its answers, beside the dense network in float32."""
    rows = [row for row in (data.bench or {}).get("rows", ()) if row.get("size")]
    usable = [row for row in rows if row["variant"] == "pruned" and not is_below_limits(row, data)]
    if not usable:
        return None
    best = min(usable, key=lambda row: float(row["median"]))
    speed = float(best["speedup"])
    faster = f"{numbers.ratio(speed)} faster" if speed >= 1 else f"{numbers.ratio(1 / speed)} slower"
    precision = {"fp32": "float32"}.get(best.get("precision", "fp32"), best.get("precision", "fp32"))
    taken = tag("strong", f"{best['runtime']} in {precision}")
    compared = tag("span", faster, class_="good" if speed >= 1 else "bad")
    parts = ["Best file: ", taken, ", ", compared, " than the dense network in float32"]
    size = f", {numbers.memory(best['size'])}"
    lost = _lost(data, best, rows)
    return tag("p", *parts, *([", ", lost] if lost is not None else []), f"{size}.", class_="verdict")


def _lost(data: ReportData, best: dict[str, Any], rows: list[dict[str, Any]]) -> Html | None:
    """The change of the headline: of the file itself where that was judged, else of the trained networks."""
    task, scores = task_named(data.task), data.headlines()
    if "dense" not in scores:  # a network that was never trained loses nothing, and wins nothing
        quality = best.get("quality")
        shown = None if quality is None else headline.format_score(float(quality), task)
        return None if shown is None else tag("span", f"{task.headline} {shown}")
    base = next((row for row in rows if (row["runtime"], row["variant"]) == (best["runtime"], "dense")), None)
    if base is not None and base.get("quality") is not None and best.get("quality") is not None:
        change = float(best["quality"]) - float(base["quality"])
    elif {"dense", "pruned"} <= set(scores):
        change = scores["pruned"] - scores["dense"]
    else:
        return None
    return tag("span", f"{headline.change(change, task)} of {task.headline}", class_="good" if change >= 0 else "bad")
