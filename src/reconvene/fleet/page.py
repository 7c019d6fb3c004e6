"""The page of a fleet: what each device gets, what could not be met, and the front between cost and predicted loss."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from reconvene.costs import COSTS, label_of, short_text
from reconvene.errors import FleetError
from reconvene.experiments.plot import Dot, scatter_svg
from reconvene.fleet.device_result import DeviceRow, Result, front, meanings, score_name, score_text, shown_costs
from reconvene.pages.headline import format_score, title
from reconvene.pages.markup import Html, join, name, tag
from reconvene.pages.sections import html_table, section, used
from reconvene.pages.shell import contents, html_page, inline_svg
from reconvene.utils import numbers
from reconvene.utils.files import write_atomic
from reconvene.workflow.prune import REPORT
from reconvene.workflow.report import report

_FRONT = "the front"
# More names than these beside dots lie over each other.
MOST_LABELS = 12


def write_page(result: Result) -> list[Path]:
    """Write the page, ``index.html``, which needs no other file, and a report into every artifact; returns the paths.

    The plots are also files of their own, ``front-COST.svg``.
    """
    drawn = fronts(result.rows)
    for row in result.rows:
        if row.folder:
            report(result.folder / row.folder)
    parts = [part for part in (_devices(result), _unmet(result), _fronts(drawn)) if part is not None]
    head = tag("header", tag("h1", _title(result), tag("span", _served(result), class_="headline")))
    page = html_page(_title(result), head, contents(parts), *parts)
    files = {"index.html": page, **{file: plot for file, (_, plot) in drawn.items()}}
    written = []
    for file, text in files.items():
        path = result.folder / file
        write_atomic(path, text.encode(), error=FleetError)
        written.append(path)
    return written


def fronts(rows: tuple[DeviceRow, ...]) -> dict[str, tuple[str, str]]:
    """Plots of predicted loss against each cost by file name, each with its title.

    Costs are compared only under equal conditions: latencies on two devices never share a plot.
    """
    drawn: dict[str, tuple[str, str]] = {}
    for cost in shown_costs(rows):
        able = [row for row in rows if row.loss is not None and row.costs.get(cost)]
        kinds = dict.fromkeys(row.about.get(cost, "") for row in able)
        for subject in kinds:
            comparable = [row for row in able if row.about.get(cost, "") == subject]
            if len(comparable) < 2:
                continue
            title = f"Predicted loss against {label_of(cost).lower()}"
            number = sum(file.startswith(f"front-{cost}") for file in drawn) + 1
            file = f"front-{cost}.svg" if number == 1 else f"front-{cost}-{number}.svg"
            heading = f"{title}, {subject}" if len(kinds) > 1 else title
            drawn[file] = heading, _plot(comparable, cost, title)
    return drawn


def _plot(rows: list[DeviceRow], cost: str, title: str) -> str:
    factor = COSTS[cost].unit.axis[1]
    best = front(rows, cost)

    def dot(row: DeviceRow, series: str, label: str = "") -> Dot:
        text = f"{row.device}: {row.model}, {short_text(cost, row.costs[cost])}, loss {numbers.digits(row.loss or 0)}"
        return Dot(row.costs[cost] * factor, row.loss or 0.0, series, text, label=label)

    dots = [dot(row, _FRONT) for row in best]
    dots += [dot(row, row.model, row.device if row in best and len(best) <= MOST_LABELS else "") for row in rows]
    return scatter_svg(title, dots, x=COSTS[cost].axis, y="predicted loss", joined=(_FRONT,))


def _title(result: Result) -> str:
    count = len(result.devices)
    return f"A fleet of {count} device{'s' * (count != 1)}"


def _served(result: Result) -> str:
    nothing = result.unserved
    if not nothing:
        return "Every device gets a network that keeps its budget."
    return f"{len(result.devices) - len(nothing)} get a network that keeps its budget, {len(nothing)} nothing."


def _devices(result: Result) -> Html:
    columns = shown_costs(result.rows)
    groups = [line for device, rows in result.devices.items() for line in _group(device, rows, columns)]
    header = [
        "Network",
        *(label_of(cost) for cost in columns),
        "Training FLOPs",
        "Loss",
        title(score_name(result.rows)),
    ]
    notes = [tag("li", line) for line in meanings(result.rows, label_of)]
    return section(
        "What each device gets",
        "The chosen network is bold: the best on the test images where all were trained, otherwise the one with the "
        "least predicted loss. Below each cost: how many times less than dense, and how much of its limit is used.",
        tag("div", html_table(header, groups, numeric=range(1, len(header))), class_="tight"),
        tag("ul", *notes, class_="note") if notes else None,
    )


def _group(device: str, rows: list[DeviceRow], columns: list[str]) -> list[Html]:
    """A line with the device and its budget, and one for each network."""
    budget = rows[0].asked
    lines = [tag("tr", tag("th", device, f": {budget}", colspan=len(columns) + 4, scope="rowgroup"), class_="group")]
    for row in rows:
        if row.loss is None or row.trouble:
            text = tag("td", "nothing: see what could not be met", colspan=len(columns) + 3, class_="bad")
            lines.append(tag("tr", tag("th", name(row.model), scope="row"), text))
            continue
        link = tag("a", name(row.model), href=quote(f"{row.folder}/{REPORT}"))
        model = tag("strong", link) if row.chosen else link
        cells = [tag("td", _cost(row, cost), class_="number") for cost in columns]
        score = score_text(row, format_score) or "–"
        figures = (_work(row), numbers.digits(row.loss), score)
        cells += [tag("td", text, class_="number") for text in figures]
        lines.append(tag("tr", tag("th", model, scope="row"), *cells))
    return lines


def _cost(row: DeviceRow, cost: str) -> Html:
    if cost not in row.costs:
        return join("–")
    value, dense = row.costs[cost], row.dense.get(cost)
    less = None
    if dense and value:
        more = f"{numbers.ratio(value / dense)} more" if value > dense else "unchanged"
        less = f"{numbers.ratio(dense / value)} less" if value < dense else more
    part = f"{used(value / row.limits[cost])} used" if cost in row.limits else None
    small = [tag("small", text) for text in (less, part) if text]
    return join(short_text(cost, value), *small)


def _work(row: DeviceRow) -> Html:
    work = row.training_flops
    return (
        join(numbers.format_count(work["pruned"]), tag("small", f"of {numbers.format_count(work['dense'])}"))
        if work
        else join("–")
    )


def _unmet(result: Result) -> Html | None:
    troubled = [row for row in result.rows if row.trouble]
    if not troubled:
        return None
    items = [tag("li", tag("strong", f"{row.device}, {row.model}"), ": ", row.trouble) for row in troubled]
    nothing = result.unserved
    lead = f"Gets nothing at all: {', '.join(nothing)}." if nothing else "Every device gets another network instead."
    return section("What could not be met", lead, tag("ul", *items))


def _fronts(drawn: dict[str, tuple[str, str]]) -> Html | None:
    if not drawn:
        return None
    figures = [
        tag("figure", inline_svg(plot), tag("figcaption", title), class_="chart") for title, plot in drawn.values()
    ]
    lead = "On a Pareto front nothing else costs less and loses less. A few dots carry the device they were made for."
    return section("Pareto fronts", lead, tag("div", *figures, class_="pair"))
