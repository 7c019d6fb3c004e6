"""The sections on what was measured, what was verified, and how to do it again."""

from __future__ import annotations

import re
from typing import Any

from reconvene.pages.charts import bar
from reconvene.pages.data import ReportData
from reconvene.pages.markup import Child, Html, join, name, tag
from reconvene.pages.sections import colour, html_table, section
from reconvene.utils import numbers

CLASSES_SHOWN = 20
"""Names of classes in the table of inputs and outputs."""


def latency_section(data: ReportData) -> Html | None:
    """One inference of every variant in every runtime."""
    result = data.bench
    if not result or not result.get("rows"):
        return None
    rows: list[Html] = []
    for runtime in dict.fromkeys(row["runtime"] for row in result["rows"]):
        of_runtime = [row for row in result["rows"] if row["runtime"] == runtime]
        slowest = max(row["three_quarters"] for row in of_runtime)
        rows.append(tag("tr", tag("th", runtime, colspan="3", scope="rowgroup"), class_="group"))
        rows += [_latency_row(row, slowest, i, result["baseline"]) for i, row in enumerate(of_runtime)]
    threads = f"{result['threads']} thread{'s' if result['threads'] != 1 else ''}"
    clock = (
        "the thread's processor time, to which waiting for other programs adds nothing"
        if result.get("clock") == "thread"
        else "wall time"
    )
    lead = (
        f"One inference, batch {result['batch']}, {threads}, variants taking turns: the median over "
        f"{result['rows'][0]['rounds']} rounds of {clock}. Eager is PyTorch itself, no stand-in for a device."
    )
    machine = result.get("machine", {})
    conditions = ", ".join(str(machine[key]) for key in ("processor", "architecture", "system") if machine.get(key))
    note = tag("p", f"Measured on {conditions}.", class_="note") if conditions else None
    return section(
        "Latency", lead, html_table(["Variant", "Time", "Speed-up"], rows, numeric=(2,), shares=(24, 52, 24)), note
    )


def _latency_row(row: dict[str, Any], slowest: float, index: int, baseline: str) -> Html:
    variant, precision = row["variant"], row.get("precision", "fp32")
    quartiles = f"quartiles {numbers.seconds(row['quarter'])} to {numbers.seconds(row['three_quarters'])}"
    wall = f"fastest by the wall clock {numbers.seconds(row['min_wall'])}"
    speed: Child = "1"
    if (variant, precision) != (baseline, "fp32"):
        around = f"{row['speedup_quarter']:.2f} to {row['speedup_three_quarters']:.2f}"
        ratio = float(row["speedup"])
        shown = numbers.ratio(ratio) if ratio >= 1 else f"{numbers.ratio(1 / ratio)} slower"
        speed = [tag("strong", shown, class_=None if ratio >= 1 else "bad"), tag("small", around)]
    return tag(
        "tr",
        tag("th", variant, tag("small", precision) if precision != "fp32" else None, scope="row"),
        tag(
            "td",
            bar(row["median"], slowest, colour(variant, index)),
            tag("span", numbers.seconds(row["median"]), class_="figure"),
            tag("small", f"{quartiles}; {wall}"),
            class_="bars",
        ),
        tag("td", speed, class_="number"),
    )


def verification(data: ReportData) -> Html | None:
    """How far each exported file is from PyTorch."""
    checked = {e.file: e.verification for e in data.exports if e.verification is not None and "rows" in e.verification}
    if not checked:
        return None
    rows: list[Html] = []
    for file, result in checked.items():
        rows.append(tag("tr", tag("th", name(file), colspan="4", scope="rowgroup"), class_="group"))
        rows += [_verified_row(row) for row in result["rows"]]
    results = list(checked.values())
    sources = "; ".join(dict.fromkeys(f"{result['samples']} samples of {result['data']}" for result in results))
    runtimes = ", ".join(dict.fromkeys(result["runtime"] for result in results))
    lead = (
        f"The exported files were run in {runtimes} and compared with PyTorch, on {sources}. "
        f"Relative errors up to {results[0]['tolerance']:.0e} of the largest output are allowed."
    )
    warnings = dict.fromkeys(warning for result in results if (warning := result.get("warning")))
    notes = [tag("p", f"{warning}.", class_="note") for warning in warnings]
    columns = ["Batch", "Largest error", "Relative", "Agreement"]
    return section(
        "Verified in the runtime", lead, html_table(columns, rows, numeric=(1, 2, 3), shares=(19, 27, 27, 27)), notes
    )


def _verified_row(row: dict[str, Any]) -> Html:
    agreement = "–" if row.get("agreement") is None else numbers.share(row["agreement"])
    texts = (f"{row['max_abs_error']:.1e}", f"{row['max_rel_error']:.1e}", agreement)
    return tag(
        "tr", tag("th", f"batch {row['batch_size']}", scope="row"), [tag("td", text, class_="number") for text in texts]
    )


def inputs(data: ReportData) -> Html | None:
    """What a picture goes through before the network sees it, and what its outputs are."""
    if data.preprocessing is None:
        return None
    (channels, height, width), names = data.preprocessing.shape, data.preprocessing.classes
    mode = "grey" if channels == 1 else "RGB" if channels == 3 else f"{channels} channels"
    facts = {
        "Shape": f"[N, {channels}, {height}, {width}], float32, {mode}",
        "Size": f"resized to cover {height}x{width} (bilinear), then center-cropped",
        "Numbers": "(x / 255 - mean) / std for pixels x from 0 to 255",
        "Mean": ", ".join(f"{value:.4f}" for value in data.preprocessing.mean),
        "Std": ", ".join(f"{value:.4f}" for value in data.preprocessing.std),
        "Outputs": ", ".join([*names[:CLASSES_SHOWN], *(["..."] if len(names) > CLASSES_SHOWN else [])]),
    }
    entries = [join(tag("dt", fact), tag("dd", text)) for fact, text in facts.items() if text]
    return section("Inputs and outputs", "How a picture becomes an input, the same for every file.", tag("dl", entries))


def timings(data: ReportData) -> Html | None:
    """Where the seconds of pruning went."""
    if not data.timings:
        return None
    total, longest = sum(data.timings.values()), max(data.timings.values())
    rows = [
        tag(
            "tr",
            tag("th", step, scope="row"),
            tag(
                "td", bar(value, longest, "dense"), tag("span", numbers.seconds(value), class_="figure"), class_="bars"
            ),
        )
        for step, value in data.timings.items()
    ]
    before = "trained" if data.trained else "untrained"
    lead = f"From the {before} network to the smaller one in {numbers.seconds(total)}, without training anything."
    if data.trained and data.is_tuned:
        lead = f"From the trained network to the smaller one in {numbers.seconds(total)}, tuning apart."
    return section("Time to prune", lead, html_table(["Step", "Time"], rows, shares=(30, 70)))


def reproduce(data: ReportData) -> Html | None:
    """Everything that is needed to get the same network again."""
    conditions = {
        "Seed": data.seed,
        "Criterion": data.criterion,
        "Evaluator": data.evaluator,
        "Rectified by": data.rectify,
        "Data the criterion saw": data.data,
        "Budget": ", ".join(f"{cost} {limit}" for cost, limit in data.budget.items()),
        "Trained on": data.dataset,
        "Trained by": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in data.recipe.items()),
        "Machine": _listed(data.machine),
        "Versions": ", ".join(f"{library} {version}" for library, version in data.versions.items()),
        "Date": numbers.moment(data.date) if data.date else None,
    }
    entries = [
        join(tag("dt", fact), tag("dd", str(value))) for fact, value in conditions.items() if value not in (None, "")
    ]
    notes = tag("ul", [tag("li", note) for note in data.notes]) if data.notes else None
    command = tag("pre", tag("code", portable(data.command)), tabindex="0") if data.command else None
    if not entries and command is None and notes is None:
        return None
    lead = f"The same {'command' if command else 'call'} and seed give the same plan and weights on such a machine."
    if "latency" in data.limits:
        lead += " A latency is measured, so plans for it differ a little from run to run."
    return section("How to reproduce", lead, command, tag("dl", entries) if entries else None, notes)


def portable(command: str) -> str:
    """A command line whose absolute paths are cut to their last part: the rest holds on one machine only."""
    return re.sub(r"(?<![\w.~/:-])~?/(?:[^\s/'\"]+/)*([^\s/'\"]+)/?", r"\1", command)


def _listed(machine: dict[str, Any]) -> str:
    named = {"cores": "{} cores", "python": "Python {}"}
    return ", ".join(named.get(key, "{}").format(value) for key, value in machine.items() if value not in (None, ""))
