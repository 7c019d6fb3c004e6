"""The section on what accuracy does not say: calibration, the worst class, agreement, corrupted images."""

from __future__ import annotations

from typing import Any

from reconvene.report.data import ReportData
from reconvene.report.markup import Child, Html, tag
from reconvene.report.sections import section, table
from reconvene.utils import numbers


def assessment(data: ReportData) -> Html | None:
    """Every trained variant side by side; a row for each thing that was looked at."""
    assessments = data.assessment
    if not assessments:
        return None
    rows = [
        _row("Calibration error", [_share(values["calibration_error"]) for values in assessments.values()]),
        _row("Worst class", [_named(v["worst_accuracy"], v["worst_class"]) for v in assessments.values()]),
    ]
    if any(values.get("agreement") is not None for values in assessments.values()):
        rows.append(_row("Same answer as dense", [_share(values.get("agreement")) for values in assessments.values()]))
        drops = [_named(v.get("worst_drop"), v.get("dropped_class")) for v in assessments.values()]
        rows.append(_row("Largest drop of a class", drops))
    rows += _corruptions(assessments)
    lead = (
        f"On {next(iter(assessments.values()))['count']:,} test images. Calibration error is how far confidence and "
        "accuracy lie apart, the mean over fifteen bins of confidence; lower is better."
    )
    shares = (40, *(60 // len(assessments) for _ in assessments))
    columns = ["", *(name.capitalize() for name in assessments)]
    return section("Beyond accuracy", lead, table(columns, rows, shares=shares, numeric=range(1, len(columns))))


def _corruptions(assessments: dict[str, dict[str, Any]]) -> list[Html]:
    names = dict.fromkeys(name for values in assessments.values() for name in values.get("corruptions") or ())
    if not names:
        return []
    head = tag("th", "Accuracy on corrupted images, by strength", colspan=str(len(assessments) + 1), scope="rowgroup")
    rows = [tag("tr", head, class_="group")]
    for name in names:
        levels = max(len((values.get("corruptions") or {}).get(name, ())) for values in assessments.values())
        for level in range(levels):
            cells = [
                _share(accuracies[level]) if (accuracies := (values.get("corruptions") or {}).get(name)) else "–"
                for values in assessments.values()
            ]
            rows.append(_row(f"{name.upper() if name == 'jpeg' else name.capitalize()}, {level + 1}", cells))
    return rows


def _row(label: str, cells: list[Child]) -> Html:
    return tag("tr", tag("th", label, scope="row"), [tag("td", cell, class_="number") for cell in cells])


def _share(value: float | None) -> Child:
    return "–" if value is None else numbers.share(value)


def _named(value: float | None, name: str | None) -> Child:
    return "–" if value is None else [numbers.share(value), tag("small", str(name))]
