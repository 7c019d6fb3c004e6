"""The page as a whole: the summary on top, then the sections that there is data for."""

from __future__ import annotations

from pathlib import Path

from reconvene.costs import listed_costs
from reconvene.errors import ArtifactError
from reconvene.pages import bits, formats, headline, measurements, pictures, robustness, sections, spikes, steps
from reconvene.pages.data import ReportData
from reconvene.pages.markup import Child, Html, tag
from reconvene.pages.markup import name as shown_name
from reconvene.pages.shell import contents, html_page
from reconvene.pages.verdict import verdict
from reconvene.tasks import task_named
from reconvene.utils import numbers
from reconvene.utils.files import write_atomic

SECTIONS = (
    sections.budget,
    formats.formats,
    measurements.latency_section,
    formats.int8,
    sections.training,
    steps.steps,
    pictures.pictures,
    robustness.assessment,
    robustness.safety,
    spikes.synops,
    sections.widths,
    bits.bits_section,
    sections.spread_section,
    measurements.inputs,
    measurements.verification,
    measurements.timings,
    measurements.reproduce,
)
"""In the order of a decision: does it keep the budget, which file, how good, then how it was made."""


def write_report(report_data: ReportData, path: str | Path) -> Path:
    """Write the report as one HTML file that needs nothing else; returns its path. Raises ArtifactError."""
    path = Path(path)
    page = render(report_data).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot write the report {path}: {error.strerror or error}") from error
    write_atomic(path, page, what="the report")
    return path


def render(data: ReportData) -> str:
    """The page as text. The same data gives the same text."""
    parts = [part for make in SECTIONS if (part := make(data)) is not None]
    return html_page(f"{data.model}, {_headline(data)}", _header(data), contents(parts), *parts, date=data.date)


def _header(data: ReportData) -> Html:
    cards = [card for card in (*_cost_cards(data), _speed_card(data), _score_card(data), _time_card(data)) if card]
    return tag(
        "header",
        tag("p", "Reconvene report", class_="eyebrow"),
        tag("h1", shown_name(data.model), " ", tag("span", _headline(data), class_="headline")),
        verdict(data),
        tag("p", _sentence(data), class_="lead"),
        tag("div", cards, class_="cards", role="list") if cards else None,
    )


def _headline(data: ReportData) -> str:
    dense, pruned = data.costs.get("dense", {}), data.costs.get("pruned", {})
    for name, cost in listed_costs().items():
        if dense.get(name) and pruned.get(name) and dense[name] > pruned[name]:
            return f"{numbers.ratio(dense[name] / pruned[name])} {cost.less} {cost.label.lower()}"
    return "pruned after training" if data.trained else "pruned before training"


def _sentence(data: ReportData) -> str:
    by = f", chosen by the criterion {data.criterion}" if data.criterion else ""
    if data.trained:
        tuned = " It was tuned afterwards." if data.is_tuned else ""
        return f"Channels of a trained network were removed{by}; what is left is ordinary, dense and smaller.{tuned}"
    trained = " Then both networks were trained alike." if {"dense", "pruned"} <= set(data.headlines()) else ""
    return (
        f"Channels were removed before any training{by}; what is left is an ordinary, dense, smaller network.{trained}"
    )


def _cost_cards(data: ReportData) -> list[Html]:
    dense, pruned = data.costs.get("dense", {}), data.costs.get("pruned", {})
    cards = []
    for name, cost in listed_costs().items():
        before, after = dense.get(name), pruned.get(name)
        if before and after:
            change = (
                f"{cost.unit.short(before)} → {cost.unit.short(after)}" if after != before else cost.unit.short(after)
            )
            figure = numbers.ratio(max(before, after) / min(before, after)) if after != before else "unchanged"
            less = cost.less if after < before else "more" if after > before else ""
            cards.append(_card(cost.label, figure, less, change))
    return cards


def _speed_card(data: ReportData) -> Html | None:
    timed = [row for row in (data.bench or {}).get("rows", ()) if row.get("precision", "fp32") == "fp32"]
    rows = {(row["runtime"], row["variant"]): row for row in timed}
    for (runtime, variant), row in rows.items():
        base = rows.get((runtime, data.bench["baseline"])) if data.bench else None
        if variant == "pruned" and base is not None and base is not row:
            change = f"{numbers.seconds(base['median'])} → {numbers.seconds(row['median'])} in {runtime}"
            speed = row["speedup"]
            return _card("Latency", numbers.ratio(max(speed, 1 / speed)), "faster" if speed >= 1 else "slower", change)
    return None


def _score_card(data: ReportData) -> Html | None:
    scores, task = data.headlines(), task_named(data.task)
    if "pruned" not in scores:
        return None
    detail: str | None = None
    if "dense" in scores:
        change = headline.change(scores["pruned"] - scores["dense"], task)
        detail = f"dense {headline.format_score(scores['dense'], task)}, {change}"
    cut = data.as_cut.get("pruned")
    if cut is not None and cut != scores["pruned"]:
        tuned = f"right after the cut {headline.format_score(cut, task)}"
        detail = tuned if detail is None else f"{detail}; {tuned}"
    return _card(headline.title(task.headline), headline.format_score(scores["pruned"], task), "pruned", detail)


def _time_card(data: ReportData) -> Html | None:
    if not data.timings:
        return None
    return _card(
        "Time to prune",
        numbers.seconds(sum(data.timings.values())),
        "",
        None if data.trained else "before any training",
    )


def _card(label: str, figure: str, comparison: str, detail: Child) -> Html:
    return tag(
        "div",
        tag("p", label, class_="label"),
        tag("p", tag("strong", figure), " ", comparison, class_="value"),
        tag("p", detail, class_="detail") if detail else None,
        class_="card",
        role="listitem",
    )
