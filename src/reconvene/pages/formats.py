"""The sections on formats: what every file weighs, how fast it runs, and how far int8 is from float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reconvene.deploy import Limits
from reconvene.deploy.runtimes.registry import RUNTIMES
from reconvene.pages import headline
from reconvene.pages.data import ReportData
from reconvene.pages.markup import Child, Html, name, tag
from reconvene.pages.scatter import BYTE_TICKS, Mark, Panel, scatter_chart
from reconvene.pages.sections import html_table, section
from reconvene.tasks import task_compared_by, task_named
from reconvene.utils import numbers

_COLOURS = {
    ("dense", "fp32"): "dense",
    ("pruned", "fp32"): "pruned",
    ("dense", "int8"): "other0",
    ("pruned", "int8"): "other1",
}


def formats(data: ReportData) -> Html | None:
    """Size against latency against agreement, one dot a file that was timed."""
    rows = [row for row in (data.bench or {}).get("rows", ()) if row.get("size")]
    if len(rows) < 2:
        return None
    fastest, smallest = (min(rows, key=lambda row: float(row[measure])) for measure in ("median", "size"))
    described = f"Fastest is {_name(fastest)}, smallest is {_name(smallest)}."
    disagreeing = [row for row in rows if _disagrees(row, data)]
    ringed = " A ring marks a file that agrees less than it has to." if disagreeing else ""
    judged = any(row.get("agreement") is not None for row in rows)
    lead = (
        "Every file by its size (across) and the time of one inference (up), both on logarithmic axes: better is "
        "further down and to the left."
        + (" Below, how often it predicts the same as the same network in PyTorch in float32." if judged else "")
        + ringed
    )
    measure = next((row["measure"] for row in rows if row.get("measure")), task_named(data.task).headline)
    columns = ["File", "Size", "Time", "Agreement", headline.title(measure)]
    lines = [tag("tr", _file_cell(row, data), [_cell(text) for text in _texts(row)]) for row in rows]
    panels = (Panel("Time of one inference", numbers.seconds), Panel("Agreement", numbers.share, log=False, top=1.0))
    title = "Size, latency and agreement of every file" if judged else "Size and latency of every file"
    chart = scatter_chart(
        title, described, [_mark(row, data) for row in rows], panels, x=numbers.memory, units=BYTE_TICKS
    )
    measured = (data.bench or {}).get("data")
    note = tag("p", f"Agreement and {measure} on {measured}, at most 512 samples.", class_="note") if measured else None
    left_out = [
        tag("p", f"Left out: {file}: {why}", class_="note")
        for file, why in (data.bench or {}).get("left_out", {}).items()
    ]
    return section(
        "Formats and precisions", lead, chart, html_table(columns, lines, numeric=(1, 2, 3, 4)), note, left_out
    )


def int8(data: ReportData) -> Html | None:
    """What int8 kept of each network, against its limits."""
    checked = {e.file: e.verification for e in data.exports if e.verification is not None and "sqnr" in e.verification}
    if not checked and not data.refused:
        return None
    in_float = {export.file: export.keep_fp32 for export in data.exports}
    rows = [tag("tr", _int8_cells(file, result, in_float[file])) for file, result in checked.items()]
    lead = "Static quantisation, calibrated on real data."
    measure = task_named(data.task).headline
    if checked:
        first = next(iter(checked.values()))
        measure, limits = first.get("measure", measure), first["limits"]
        lead += (
            f" A file had to keep {limits['agreement']:.0%} of the predictions, an SQNR of {limits['sqnr']:g} dB, and "
            f"lose at most {100 * limits['accuracy_drop']:g} points of {measure}."
        )
    columns = ["File", "Agreement", "SQNR", headline.title(measure), "In fp32"]
    refused = [
        tag(
            "p",
            name(file),
            ": ",
            tag("strong", "refused", class_="bad"),
            f", and {'the file of an earlier export stays' if _is_kept(file, data) else 'no file was kept'}. {why}",
            class_="note",
        )
        for file, why in data.refused.items()
    ]
    if not rows:
        return section("What int8 kept", lead, refused)
    return section("What int8 kept", lead, html_table(columns, rows, numeric=(1, 2, 3, 4)), refused)


def _int8_cells(file: str, verification: dict[str, Any], keep_fp32: Sequence[str]) -> list[Child]:
    in_float = tag("small", "fp32: ", ", ".join(keep_fp32)) if keep_fp32 else None
    noise = "no noise" if verification["sqnr"] is None else f"{verification['sqnr']:.1f}{numbers.NARROW}dB"
    measure = verification.get("measure")
    qualities = [_quality(verification[key], measure) for key in ("quality", "reference_quality")]
    return [
        tag("th", name(file), in_float, scope="row"),
        *(_cell(text) for text in (_share(verification["agreement"]), noise, *qualities)),
    ]


def _file_cell(row: dict[str, Any], data: ReportData) -> Html:
    reason = "refused: below its limits" if _is_refused(row, data) else "disagrees with PyTorch"
    below = tag("small", reason, class_="bad") if is_below_limits(row, data) else None
    return tag("th", _name(row), below, scope="row")


def _mark(row: dict[str, Any], data: ReportData) -> Mark:
    colour_key = (row["variant"], row.get("precision", "fp32"))
    text = f"{_name(row)}: {', '.join(_texts(row)[:3])} agreement"
    heights = (float(row["median"]), row.get("agreement"))
    return Mark(
        text,
        float(row["size"]),
        heights,
        _COLOURS.get(colour_key, "other2"),
        " ".join(colour_key),
        row["runtime"],
        _disagrees(row, data),
    )


def _disagrees(row: dict[str, Any], data: ReportData) -> bool:
    """Whether a file agrees less with PyTorch than its export had to, or than is usual where nothing was asked."""
    file = _file_name(row)
    limits = [
        export.verification["limits"]["agreement"]
        for export in data.exports
        if export.file == file and export.verification
        if "limits" in export.verification
    ]
    return row.get("agreement") is not None and row["agreement"] < (limits[0] if limits else Limits.agreement)


def is_below_limits(row: dict[str, Any], data: ReportData) -> bool:
    """Whether a file that was timed would not be kept: it was refused, or its answers are others.

    Answers of a network that was never trained say nothing.
    """
    return _is_refused(row, data) or (row["variant"] in data.headlines() and _disagrees(row, data))


def _is_refused(row: dict[str, Any], data: ReportData) -> bool:
    """Whether an export of this quantised file was refused, and none of an earlier export is there."""
    file = _file_name(row)
    return file in data.refused and not _is_kept(file, data)


def _is_kept(file: str, data: ReportData) -> bool:
    return any(export.file == file for export in data.exports)


def _file_name(row: dict[str, Any]) -> str:
    """What the quantised file of a row is called in an artifact; empty of float32."""
    precision, runtime, variant = row.get("precision", "fp32"), row["runtime"], row["variant"]
    suffix = RUNTIMES[runtime].suffix if runtime in RUNTIMES else ""
    return "" if precision == "fp32" else f"{'model' if variant == 'pruned' else variant}.{precision}{suffix}"


def _name(row: dict[str, Any]) -> str:
    return f"{row['runtime']} {row['variant']} {row.get('precision', 'fp32')}"


def _texts(row: dict[str, Any]) -> list[str]:
    quality = _quality(row.get("quality"), row.get("measure"))
    return [numbers.memory(row["size"]), numbers.seconds(row["median"]), _share(row.get("agreement")), quality]


def _quality(value: float | None, measure: str | None) -> str:
    return "–" if value is None else headline.format_score(value, task_compared_by(measure))


def _share(value: float | None) -> str:
    return "–" if value is None else numbers.share(value)


def _cell(text: str) -> Html:
    return tag("td", text, class_="number")
