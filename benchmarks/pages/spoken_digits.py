"""The table of docs/spiking.md about spoken digits."""

from __future__ import annotations

from statistics import mean, stdev

from rows import Row, read_rows
from spoken_digits import METHODS, RESULTS

from pages.generated_part import GeneratedPart

PART = GeneratedPart("spiking.md", "spoken digits")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """Accuracy and synaptic operations by method, means over seeds."""
    rows = read_rows(RESULTS)
    dense = mean(row["ac"] for row in rows if row["method"] == "dense")
    lines = [
        "| method | seeds | accuracy | ACs of one example | of dense | parameters | processor time of a run |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if own:
            lines.append(f"| {method} | {len(own)} | {' | '.join(cells(own, dense))} |")
    return "\n".join(lines) + "\n"


def cells(rows: list[Row], dense: float) -> list[str]:
    """One method."""
    accuracies = [row["accuracy"] for row in rows]
    spread = f" ± {stdev(accuracies):.1%}" if len(rows) > 1 else ""
    operations = mean(row["ac"] for row in rows)
    return [
        f"{mean(accuracies):.1%}{spread}",
        f"{operations / 1e3:,.0f} k",
        f"{operations / dense:.0%}",
        f"{mean(row['parameters'] for row in rows):,.0f}",
        f"{mean(row['processor_seconds'] for row in rows):.0f} s",
    ]
