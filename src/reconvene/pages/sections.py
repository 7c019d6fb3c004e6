"""The sections of the page: each is a function of the data that returns nothing when there is nothing to show."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from reconvene.costs import label_of, short_text
from reconvene.pages import headline
from reconvene.pages.charts import ChartLine, bar, dots_in_band, lines
from reconvene.pages.data import ReportData
from reconvene.pages.markup import Child, Html, name, tag
from reconvene.surgery.cut import PlanRow
from reconvene.tasks import Task, task_named
from reconvene.utils import numbers

BAND = (0.8, 1.25)
LONG = 24
"""Rows from which a table scrolls in a box of its own."""


def budget(data: ReportData) -> Html | None:
    """What was asked, in absolute numbers, and whether it was kept."""
    if not data.limits:
        return None
    pruned = data.costs.get("pruned", {})
    rows = []
    for cost, limit in data.limits.items():
        planned = pruned.get(cost)
        got = data.measured.get(cost, planned)
        later = None
        if planned is not None and cost in data.measured and got != planned:
            later = tag("small", f"measured afterwards; {short_text(cost, planned)} in the plan")
        keeps = got is not None and got <= limit * (1 + 1e-9)
        verdict = "not measured" if got is None else f"kept, {used(got / limit)} used" if keeps else "exceeded"
        request = [_limit_text(data.budget.get(cost)), tag("small", f"at most {short_text(cost, limit)}")]
        rows.append(
            tag(
                "tr",
                tag("th", label_of(cost), scope="row"),
                tag("td", request),
                tag("td", "–" if got is None else short_text(cost, got), later),
                tag("td", verdict, class_="good" if keeps else "bad"),
            )
        )
    return section(
        "Budget",
        "Every limit that was asked for, and what the network needs now.",
        html_table(["Cost", "Asked", "Result", "Kept"], rows, shares=(33, 25, 19, 23)),
    )


def widths(data: ReportData) -> Html | None:
    """Channels of every group before and after, and the sensitivity behind it."""
    if not data.groups:
        return None
    widest = max(group.dense for group in data.groups)
    losses = [group.loss for group in data.groups if group.loss is not None and math.isfinite(group.loss)]
    largest_loss = max(losses, default=0.0)
    header = ["Group", "Channels kept", *(["Loss"] if losses else [])]
    rows = [tag("tr", _group_cells(group, widest, largest_loss, bool(losses))) for group in data.groups]
    stay, dense = sum(g.width for g in data.groups), sum(g.dense for g in data.groups)
    lead = (
        f"{len(data.groups)} groups of channels that can only leave together, from input to output: "
        f"{stay:,} of {dense:,} channels stay. The light bar is the dense width, the dark one what is kept."
    )
    meaning = None
    if losses:
        by = f" by the {data.evaluator} evaluator" if data.evaluator else ""
        meaning = tag(
            "p",
            f"Loss is what the network loses in the group at this width, estimated{by}: ",
            _unit(data),
            class_="note",
        )
    return section(
        "Widths, before and after",
        lead,
        html_table(header, rows, shares=(38, 40, 22) if losses else (45, 55), long=len(rows) > LONG),
        meaning,
        _pinned(data),
    )


def _group_cells(group: PlanRow, widest: int, largest_loss: float, with_loss: bool) -> list[Html]:
    lost = float(group.loss) if group.loss is not None and math.isfinite(group.loss) else None
    kept = bar(group.width, widest, "pruned", of=group.dense)
    figure = f"{group.width:,} of {group.dense:,}"
    cells = [
        tag("th", name(group.name), _why(group.why), scope="row"),
        tag("td", kept, tag("span", figure, class_="figure"), class_="bars"),
    ]
    if with_loss:
        shown = "–" if lost is None else numbers.digits(lost)
        drawn = bar(lost, largest_loss, "loss") if lost is not None and largest_loss > 0 else None
        cells.append(tag("td", drawn, tag("span", shown, class_="figure"), class_="bars"))
    return cells


def _unit(data: ReportData) -> str:
    if data.evaluator == "density":
        return (
            "how far the criterion must thin out the whole network, in nats (−log of the density), before it would cut "
            "this group so far. The same number means the same loss in every group."
        )
    if data.evaluator == "fan_in":
        return (
            "how much noisier signal and gradient become. Each layer that the group touches adds the growth of "
            "1 / channels, and the loss is the root of their sum."
        )
    return "0 is nothing, and the scale is the same for every group."


def _why(text: str) -> Html | None:
    return tag("small", name(text)) if text else None


def _pinned(data: ReportData) -> Html | None:
    if not data.pinned:
        return None
    items = [
        tag("li", name(group["name"]), f" ({group['width']:,}): {group.get('why') or 'pinned'}")
        for group in data.pinned
    ]
    noun, whose = ("group is", "it") if len(items) == 1 else ("groups are", "them")
    return details(f"{len(items)} {noun} kept at full width, since nothing of {whose} may leave", tag("ul", items))


def spread_section(data: ReportData) -> Html | None:
    """Activation spread of every rectified layer, small over dense, against the band that counts as healthy."""
    if not data.spread:
        return None
    values = list(data.spread.items())
    outside = [(layer, value) for layer, value in values if not BAND[0] <= value <= BAND[1]]
    low, high = min(values, key=lambda v: v[1]), max(values, key=lambda v: v[1])
    method_note = f" (rectified by {data.rectify})" if data.rectify else ""
    lead = f"Standard deviation of each layer's activations, small network over dense{method_note}. "
    lead += f"{len(values) - len(outside)} of {len(values)} layers are within {BAND[0]:g} to {BAND[1]:g}"
    if data.trained:
        lead += ", and the others are those that the cut changed most. The accuracy decides, not this number."
    else:
        lead += ", where signals neither fade nor explode."
    named = [[", " if i else None, name(layer), f" ({value:.2f})"] for i, (layer, value) in enumerate(outside[:6])]
    remainder = f" and {len(outside) - 6} more" if len(outside) > 6 else ""
    note = tag("p", "Outside the band: ", named, f"{remainder}.", class_="note") if outside else None
    described = f"Lowest {low[1]:.3f} in {low[0]}, highest {high[1]:.3f} in {high[0]}."
    rows = [tag("tr", tag("th", name(n), scope="row"), tag("td", f"{v:.3f}", class_="number")) for n, v in values]
    return section(
        "Signal through the layers",
        lead,
        dots_in_band("Spread ratio by layer, input to output", described, values, band=BAND),
        note,
        details(f"All {len(values)} ratios", html_table(["Layer", "Ratio"], rows, numeric=(1,), long=len(rows) > LONG)),
    )


def training(data: ReportData) -> Html | None:
    """The task's headline and the loss by epoch, every variant in one chart."""
    task = task_named(data.task)
    title = headline.title(task.headline)
    split = data.curve_split
    key = f"{split}_{task.headline}"
    heading = f"{split.capitalize()} {title if title.isupper() else title.lower()}"
    runs = {variant: data.epochs(variant) for variant in data.training if data.epochs(variant)}
    if not runs:
        return None
    data_note = f" on {data.dataset}" if data.dataset else ""
    alike = "Every network was trained by the same recipe" if len(runs) > 1 else "The network was trained"
    if data.trained:
        alike = "The network was tuned"
        if "dense" in runs:
            alike = "The dense network was trained, and the cut one " + ("tuned" if len(runs) > 1 else "not tuned")
    lead = f"{alike}{data_note}. {title} and loss are those on the {split} split after each epoch."
    charts = [
        chart
        for chart in (
            _curve(
                runs,
                key,
                heading,
                lambda value: headline.format_score(value, task),
                percent if task.is_share else "{:g}".format,
            ),
            _curve(runs, f"{split}_loss", f"{split.capitalize()} loss", numbers.digits, "{:g}".format),
        )
        if chart is not None
    ]
    columns = ["Variant", "Epoch", "Train loss", f"{split.capitalize()} loss", heading]
    rows = [
        tag(
            "tr",
            tag("th", variant, scope="row"),
            [tag("td", text, class_="number") for text in _epoch_texts(row, task, split)],
        )
        for variant, records in runs.items()
        for row in records
    ]
    all_epochs = details(
        "Every epoch in numbers", html_table(columns, rows, numeric=(1, 2, 3, 4), long=len(rows) > LONG)
    )
    return section("Training", lead, _work(data), tag("div", charts, class_="pair"), all_epochs)


def _work(data: ReportData) -> Html | None:
    """What an epoch costs: forward, and the gradients of inputs and weights, are three products of the same size."""
    macs = {variant: costs["macs"] for variant, costs in data.costs.items() if "macs" in costs}
    if not data.examples or set(macs) != {"dense", "pruned"}:
        return None
    flops = {variant: f"{numbers.format_count(6 * each * data.examples)}FLOPs" for variant, each in macs.items()}
    less = numbers.ratio(macs["dense"] / macs["pruned"]) if macs["pruned"] else "–"
    text = f"An epoch takes {flops['dense']} dense and {flops['pruned']} pruned ({less} fewer): {data.examples:,} "
    text += "images, six operations for each multiply-accumulate (forward, and the gradients of inputs and weights). "
    return tag("p", text + "Norms, elementwise work and the optimizer are not counted.", class_="note")


def _curve(
    runs: dict[str, list[dict[str, Any]]],
    key: str,
    title: str,
    written: Callable[[float], str],
    ticks: Callable[[float], str],
) -> Html | None:
    series = []
    for i, (variant, records) in enumerate(runs.items()):
        points = [(float(row["epoch"]), float(row[key])) for row in records if _finite(row.get(key))]
        if points:
            series.append(ChartLine(variant, points, colour(variant, i)))
    if not series:
        return None
    summary = "; ".join(f"{s.name} from {written(s.points[0][1])} to {written(s.points[-1][1])}" for s in series)
    return lines(title, f"By epoch: {summary}.", series, x="epoch", y=written, ticks=ticks)


def percent(value: float) -> str:
    """A share as a percentage with as few digits as it has."""
    return f"{value * 100:g}{numbers.NARROW}%"


def _epoch_texts(row: dict[str, Any], task: Task, split: str) -> list[str]:
    losses = [numbers.digits(row[key]) if _finite(row.get(key)) else "–" for key in ("train_loss", f"{split}_loss")]
    key = f"{split}_{task.headline}"
    return [str(row["epoch"]), *losses, headline.format_score(row[key], task) if _finite(row.get(key)) else "–"]


def section(heading: str, lead: Child, *children: Child) -> Html:
    """A headed part of the page."""
    anchor = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
    return tag("section", tag("h2", heading), tag("p", lead, class_="lead"), *children, id=anchor)


def html_table(
    header: Sequence[str],
    rows: Child,
    *,
    numeric: Sequence[int] = (),
    shares: Sequence[int] | None = None,
    long: bool = False,
) -> Html:
    """A table in a box of its own, which scrolls where the page is too narrow, or the table ``long``.

    ``shares`` fixes the columns' widths in percent; ``numeric`` names the columns set to the right.
    """
    heads = [
        tag(
            "th",
            text,
            scope="col",
            class_="number" if i in numeric else None,
            style=f"width:{shares[i]}%" if shares else None,
        )
        for i, text in enumerate(header)
    ]
    inner = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="fixed" if shares else None)
    label = f"Table: {', '.join(header)}"
    return tag("div", inner, class_="box long" if long else "box", tabindex="0", role="region", aria_label=label)


def details(summary: str, *children: Child) -> Html:
    """Something to open."""
    return tag("details", tag("summary", summary), *children)


def colour(variant: str, index: int) -> str:
    """The class that colours a variant: dense and pruned always look the same."""
    return variant if variant in ("dense", "pruned") else f"other{index % 3}"


def _limit_text(value: Any) -> str:
    if value is None:
        return "–"
    return numbers.share(value) + " of dense" if isinstance(value, float) and value <= 1 else str(value)


def used(part: float) -> str:
    """Rounded down: a budget that is kept with nothing to spare is the only one to read 100 %."""
    return numbers.share(math.floor(part * 1000 + 1e-6) / 1000)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
