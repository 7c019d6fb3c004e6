"""The page of a fleet: what each device gets, what could not be met, and the front between cost and predicted loss."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from reconvene.disk import write_atomic
from reconvene.errors import FleetError
from reconvene.experiments.plot import Dot, scatter
from reconvene.fleet.portfolio import Result, Row
from reconvene.report.markup import Html, document, raw_style, tag
from reconvene.report.page import POLICY
from reconvene.text import quantity

AXES = {
    "latency": "milliseconds",
    "params": "parameters",
    "macs": "multiply-accumulates",
    "peak_memory": "bytes of activations",
}
_SHOWN = ("params", "macs", "peak_memory", "size", "latency")


def write_page(result: Result) -> list[Path]:
    """Write ``index.html`` and one ``front-COST.svg`` per cost into the fleet's folder; returns their paths."""
    drawn = {cost: plot for cost in AXES if (plot := front_plot(result.rows, cost)) is not None}
    css = resources.files("reconvene.report").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY.replace("img-src data:", "img-src 'self'")),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", "Fleet"),
        raw_style(css),
    )
    pictures = [tag("figure", tag("img", src=f"front-{cost}.svg", alt=f"loss against {cost}")) for cost in drawn]
    body = tag(
        "body",
        tag("main", tag("h1", "Fleet"), _devices(result.rows), _unmet(result.rows), tag("h2", "Fronts"), *pictures),
    )
    files = {"index.html": str(document(head, body)), **{f"front-{cost}.svg": text for cost, text in drawn.items()}}
    written = []
    for name, text in files.items():
        path = result.folder / name
        write_atomic(path, text.encode(), error=FleetError)
        written.append(path)
    return written


def front(rows: tuple[Row, ...], cost: str) -> list[Row]:
    """The rows that no other one beats in both this cost and predicted loss, by rising cost."""
    able = [row for row in rows if row.loss is not None and cost in row.costs and not row.trouble]
    best: list[Row] = []
    for row in sorted(able, key=lambda row: (row.costs[cost], row.loss)):
        if not best or (row.loss or 0.0) < (best[-1].loss or 0.0):
            best.append(row)
    return best


def front_plot(rows: tuple[Row, ...], cost: str) -> str | None:
    """An SVG of all rows and their front; None where fewer than two say what they cost."""
    able = [row for row in rows if row.loss is not None and row.costs.get(cost)]
    if len(able) < 2:
        return None
    factor = 1e3 if cost == "latency" else 1.0
    best = front(rows, cost)
    dots = [Dot(row.costs[cost] * factor, row.loss or 0.0, "front", f"{row.device}: {row.model}") for row in best]
    dots += [
        Dot(row.costs[cost] * factor, row.loss or 0.0, row.model, f"{row.device}: {row.model}")
        for row in able
        if row not in best
    ]
    return scatter(f"Predicted loss against {cost}", dots, x=AXES[cost], y="predicted loss", joined=False)


def _devices(rows: tuple[Row, ...]) -> Html:
    head = tag("tr", *(tag("th", text) for text in ("device", "gets", "budget", *_SHOWN, "loss", "accuracy")))
    lines = []
    for row in rows:
        if row.loss is None:
            continue
        asked = ", ".join(f"{cost} {value}" for cost, value in row.budget.items())
        costs = [tag("td", quantity(cost, row.costs[cost]) if cost in row.costs else "-") for cost in _SHOWN]
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.2%}"
        gets = tag("strong", row.model) if row.chosen else row.model
        cells = [tag("td", row.device), tag("td", gets), tag("td", asked), *costs]
        lines.append(tag("tr", *cells, tag("td", f"{row.loss:.3g}"), tag("td", accuracy)))
    words = tag("p", "In bold what the device gets: of what keeps its budget, what loses least.")
    return tag("section", tag("h2", "Devices"), words, tag("table", tag("thead", head), tag("tbody", *lines)))


def _unmet(rows: tuple[Row, ...]) -> Html | None:
    troubled = [row for row in rows if row.trouble]
    if not troubled:
        return None
    items = [tag("li", tag("strong", f"{row.device}, {row.model}"), ": ", row.trouble) for row in troubled]
    return tag("section", tag("h2", "What could not be met"), tag("ul", *items))
