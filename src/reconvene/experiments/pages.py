"""Tables and plots from records: Markdown rows, SVG files; nothing in them is typed by hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, count
from pathlib import Path

from reconvene.errors import ExperimentError
from reconvene.experiments.plot import Dot, scatter_svg
from reconvene.experiments.summary import EXTRA, WHOLE, ArmSummary, caveats, cells, header_of, over_budget
from reconvene.pages.markup import tag
from reconvene.pages.sections import html_table, section
from reconvene.pages.shell import contents, html_page, inline_svg
from reconvene.utils.escaping import markdown, markdown_table
from reconvene.utils.files import write_atomic

_AXES: dict[str, str] = {
    "params": "parameters, share of dense",
    "macs": "multiply-accumulates, share of dense",
    "latency": "ONNX Runtime latency, ms (one thread, batch 1)",
    "packed": "packed weights, kB",
}


def tables(lines: Sequence[ArmSummary]) -> str:
    """One table a model and data set, rows grouped by budget; what was measured beyond the headline in a second one."""
    parts = []
    for model, data in dict.fromkeys((line.model, line.data) for line in lines):
        group = [line for line in lines if (line.model, line.data) == (model, data)]
        rows = [[line.budget, *cells(line)] for line in group]
        parts.append(
            f"**{markdown(model)} on {markdown(data)}**\n\n{escaped_table(['budget', *header_of(group)], rows)}"
        )
        names = [name for name in EXTRA if any(name in line.extra for line in group)]
        if names:
            beyond = [[line.budget, line.label, *(str(line.extra.get(name, "")) for name in names)] for line in group]
            parts.append(escaped_table(["budget", "arm", *(f"{name} %" for name in names)], beyond))
        if any(line.packed for line in group):
            parts.append(grid_of_bits(group))
    if caveat := caveats(lines):
        parts.append(markdown(caveat))
    return "\n\n".join(parts) + "\n"


def grid_of_bits(lines: Sequence[ArmSummary]) -> str:
    """Bytes of packed weights beside the headline, the largest first."""
    ranked = sorted((line for line in lines if line.packed), key=lambda line: -(line.packed or 0))
    rows = [
        [line.label, line.budget, f"{(line.packed or 0) / 1e3:.1f}", line.score_text, str(line.score.n)]
        for line in ranked
    ]
    return markdown_table(["arm", "budget", "packed weights, kB", header_of(ranked)[1], "seeds"], rows)


def escaped_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return markdown_table(header, [[cell.replace("|", "\\|") for cell in row] for row in rows])


def plots(lines: Sequence[ArmSummary]) -> dict[str, str]:
    """SVG text by file name: the headline against every axis that was measured, a plot per model and data set."""
    documents: dict[str, str] = {}
    for model, data in dict.fromkeys((line.model, line.data) for line in lines):
        group = [line for line in lines if (line.model, line.data) == (model, data)]
        for axis, axis_label in _AXES.items():
            dots = [dot for line in group if (dot := _dot(line, axis)) is not None]
            if len({dot.x for dot in dots}) > 1:
                name = _file_name(f"{model}-{data}-{axis}", documents)
                documents[name] = scatter_svg(f"{model} on {data}", dots, x=axis_label, y=_score_axis(group[0]))
    return documents


def _file_name(words: str, taken: Collection[str]) -> str:
    """A name for a plot that no other one has, also where large and small letters are the same to the file system."""
    stem = "".join(c if c.isalnum() else "-" for c in words).strip("-")
    lowered = {name.lower() for name in taken}
    names = (f"{stem}{ending}.svg" for ending in chain([""], (f"-{number}" for number in count(2))))
    return next(name for name in names if name.lower() not in lowered)


def comparison(lines: Sequence[ArmSummary], drawn: Mapping[str, str]) -> str:
    """The page of a comparison: for every model and data set a table of its methods, and the plots."""
    parts = []
    for model, data in dict.fromkeys((line.model, line.data) for line in lines):
        group = [line for line in lines if (line.model, line.data) == (model, data)]
        header = ["budget", "method", *header_of(group)[1:]]
        rows = [
            tag(
                "tr",
                tag("th", line.budget, scope="row"),
                tag("td", line.label),
                [tag("td", cell or "–", class_="number") for cell in cells(line)[1:]],
            )
            for line in group
        ]
        best = max(group, key=lambda line: line.rank)
        score = f"{best.task.headline} {_with_unit(best)}"
        measured = "each over its seeds; latency in ONNX Runtime, one thread, one image"
        lead = f"{len(group)} results, {measured}. The best: {best.label}, {best.budget}, {score}. {over_budget(group)}"
        parts.append(
            section(
                f"{model} on {data}",
                lead.rstrip(),
                tag("div", html_table(header, rows, numeric=range(2, len(header))), class_="tight"),
            )
        )
    figures = [tag("figure", inline_svg(plot), class_="chart") for plot in drawn.values()]
    if figures:
        lead = f"A dot a method and budget, with the spread over seeds; {_better(lines)}, to the left is smaller."
        parts.append(section("Test results against cost", lead, tag("div", figures, class_="pair")))
    caveat = caveats(lines)
    head = tag("header", tag("h1", "Comparison of methods"), tag("p", caveat) if caveat else None)
    return html_page("Comparison", head, contents(parts), *parts)


def _better(lines: Sequence[ArmSummary]) -> str:
    """Where the better networks are in plots: ``further up is better``, by headline where they differ."""
    headlines = {line.task.headline: line.task.larger_is_better for line in lines}
    ways = {way: [name for name, up in headlines.items() if up == (way == "up")] for way in ("up", "down")}
    found = {way: names for way, names in ways.items() if names}
    if len(found) == 1:
        return f"further {next(iter(found))} is better"
    return " and ".join(f"further {way} is better for {', '.join(names)}" for way, names in found.items())


def write_pages(lines: Sequence[ArmSummary], folder: Path) -> list[Path]:
    """``index.html``, which needs no other file, ``table.md`` and the plots, into ``folder``; what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots(lines)
    texts = {"index.html": comparison(lines, drawn), "table.md": tables(lines), **drawn} if lines else {}
    for name, text in texts.items():
        write_atomic(folder / name, text.encode(), error=ExperimentError)
    return [folder / name for name in texts]


def _dot(line: ArmSummary, axis: str) -> Dot | None:
    places = {"params": line.params, "macs": line.macs, "latency": line.latency and line.latency * 1e3}
    places["packed"] = line.packed and line.packed / 1e3
    x = places[axis]
    if not x:
        return None
    which = f"{line.label}, {line.budget}" if line.budget != WHOLE else line.label
    return Dot(x, line.score.value, line.label, f"{which}: {_with_unit(line)}", line.score.spread or 0.0)


def _with_unit(line: ArmSummary) -> str:
    return f"{line.score_text} %" if line.task.is_share else line.score_text


def _score_axis(line: ArmSummary) -> str:
    return f"test {line.task.headline}, %" if line.task.is_share else f"test {line.task.headline}"
