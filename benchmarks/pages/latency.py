"""The tables of docs/devices.md about latency, and the plot of ever tighter budgets."""

from __future__ import annotations

from pathlib import Path

from latency import RESULTS
from rows import Row, read_rows

from pages.generated_part import DOCS, GeneratedPart, update_files
from reconvene.experiments.plot import Dot, scatter_svg

PART = GeneratedPart("devices.md", "latency")


def update(*, write: bool = True) -> bool:
    """Write the tables and plots; returns whether one was old."""
    rows = read_rows(RESULTS)
    return update_files(PART.filled(tables(rows)) | plots(rows), write=write)


def tables(rows: list[Row]) -> str:
    """The newest result of every kind."""
    parts = [prediction(rows), budgets(rows), *fleets(rows), *(monotone(row) for row in newest(rows, "monotone"))]
    return "\n\n".join(parts) + "\n"


def newest(rows: list[Row], what: str) -> list[Row]:
    """The last row of one kind for each model and budget."""
    return list({(row["model"], row.get("asked")): row for row in rows if row["what"] == what}.values())


def prediction(rows: list[Row]) -> str:
    """Every run since layers are measured again where the device was disturbed: they differ by what the host does."""
    names = ("median_error", "worst_error", "median_error_scaled_by_dense", "worst_error_scaled_by_dense")
    header = [
        *("model", "plans", "median error", "worst", "median, scaled by dense", "worst, scaled"),
        *("the same file varied", "noise of the profile"),
    ]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for row in rows:
        if row["what"] == "predict" and row.get("tries"):
            cells = [f"{row[name]:.1%}" for name in (*names, "spread_between_passes", "profile_noise")]
            lines.append(f"| `{row['model']}` | {row['plans']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def budgets(rows: list[Row]) -> str:
    """Budgets on latency: the limit, the prediction and two measurements."""
    lines = ["| model | asked | limit | predicted | measured | used | measured again |", "|" + " --- |" * 7]
    for row in newest(rows, "budgets"):
        model, asked = row["model"], row["asked"]
        if "refused" in row:
            lines.append(f"| `{model}` | {asked} | refused | | | | |")
            continue
        *times, again = (f"{row[name] * 1e3:.3g} ms" for name in ("limit", "predicted", "measured", "measured_again"))
        lines.append(f"| `{model}` | {asked} | {' | '.join(times)} | {row['used']:.1%} | {again} |")
    return "\n".join(lines)


def fleets(rows: list[Row]) -> list[str]:
    """A sentence for each fleet of budgets."""
    return [
        f"{row['budgets']} budgets of `{row['model']}`: {row['together']:.1f} s planned together, {row['alone']:.0f} s "
        f"one by one, which is {row['together'] / row['budgets']:.2f} s and {row['alone'] / row['budgets']:.2f} s for "
        f"each ({row['alone'] / row['together']:.0f}x)."
        for row in newest(rows, "fleet")
    ]


def monotone(row: Row) -> str:
    """The plot of ever tighter budgets, and by how much latency rose in it."""
    own = [one["measured"] for one in row["rows"] if one["round_to"] == row["step"]]
    rises = max(0.0, *(later / min(own[: i + 1]) - 1 for i, later in enumerate(own[1:])))
    return (
        f"![{title(row)}](plots/{plot_file(row)})\n\nThe largest rise with the device's step: {rises:.1%} of the least "
        "before it."
    )


def plots(rows: list[Row]) -> dict[Path, str]:
    """The plots of ever tighter budgets."""
    return {DOCS / "plots" / plot_file(row): plot(row) for row in newest(rows, "monotone")}


def plot(row: Row) -> str:
    """Measured latency against the budget."""
    names = {row["step"]: f"the device's step, {row['step']}", 1: "any width"}
    dots = [
        Dot(one["limit"] * 1e3, one["measured"] * 1e3, names[one["round_to"]], f"{one['measured'] * 1e3:.3g} ms")
        for one in row["rows"]
    ]
    return scatter_svg(title(row), dots, x="budget, milliseconds", y="measured, milliseconds", log_x=False)


def title(row: Row) -> str:
    """Of a plot."""
    return f"Measured latency against the budget, {row['model']}"


def plot_file(row: Row) -> str:
    """The file of a plot."""
    return f"latency-{row['model'].split(':')[-1]}.svg"
