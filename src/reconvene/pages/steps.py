"""The section on a pruning in steps: what each step left, and how good its network was."""

from __future__ import annotations

from reconvene.artifact.curve import PruningCurve, StepRecord
from reconvene.costs import COSTS, label_of, short_text
from reconvene.pages import headline
from reconvene.pages.charts import ChartLine, lines
from reconvene.pages.data import ReportData
from reconvene.pages.markup import Html, tag
from reconvene.pages.sections import html_table, percent, section
from reconvene.tasks import Task, task_named

MOMENTS = {"cut": "right after the cut", "repaired": "repaired", "tuned": "tuned"}


def steps(data: ReportData) -> Html | None:
    """The metric after every step: right after the cut, repaired, tuned; as a chart and as a table."""
    if data.curve is None or not data.curve.steps:
        return None
    task, records = task_named(data.task), data.curve.steps
    title = headline.title(task.headline)
    repair = f" ({data.rectify})" if data.rectify else ""
    split = data.curve.split
    measured = f"is that of the {split} images" if split else "was measured by the user's own code"
    lead = (
        f"The trained network was cut in {len(records)} step{'s' if len(records) > 1 else ''}. {title} {measured}: "
        f"right after the cut, after the repair{repair}, and after tuning."
    )
    costs = [cost for cost in COSTS if cost in records[0].costs and cost in ("params", "macs", *data.limits)]
    rows = [_row(record, costs, task) for record in records]
    header = ["Step", *(label_of(cost) for cost in costs), *(moment.capitalize() for moment in MOMENTS.values())]
    return section("Steps", lead, _chart(data.curve, title, task), html_table(header, rows), _floor(data.curve, task))


def _row(record: StepRecord, costs: list[str], task: Task) -> Html:
    amounts = [tag("td", short_text(cost, record.costs[cost]), class_="number") for cost in costs]
    scores = [tag("td", _score(getattr(record, moment), task), class_="number") for moment in MOMENTS]
    return tag("tr", tag("th", str(record.step), scope="row"), amounts, scores)


def _chart(curve: PruningCurve, title: str, task: Task) -> Html | None:
    series = []
    for number, (moment, words) in enumerate(MOMENTS.items()):
        scores = {record.step: getattr(record, moment) for record in curve.steps}
        points = [(float(step), float(score)) for step, score in scores.items() if score is not None]
        if curve.dense is not None:
            points = [(0.0, float(curve.dense)), *points]
        if len(points) > 1:
            series.append(ChartLine(words, points, "pruned" if moment == "tuned" else f"other{number}"))
    if not series:
        return None
    described = "; ".join(f"{line.name} {_score(line.points[-1][1], task)} after the last step" for line in series)
    ticks = percent if task.is_share else "{:g}".format
    return lines(title, f"By step: {described}.", series, x="step", y=lambda value: _score(value, task), ticks=ticks)


def _floor(curve: PruningCurve, task: Task) -> Html | None:
    if curve.floor is None or curve.result == len(curve.steps):
        return None
    text = f"The last step does not reach the floor of {_score(curve.floor, task)}: the network is that of step "
    return tag("p", f"{text}{curve.result}.", class_="note")


def _score(value: float | None, task: Task) -> str:
    return "–" if value is None else headline.format_score(value, task)
