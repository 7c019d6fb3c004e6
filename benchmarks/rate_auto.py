"""A learning rate that a range test found beside the best of the fixed ones, network by network.

    reconvene compare benchmarks/experiments/rate_auto.toml --results benchmarks/results/rate_auto.jsonl
    python benchmarks/rate_auto.py

The first command goes on where it was stopped; the second prints what there is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reconvene.experiments import read_results
from reconvene.experiments.summary import Mean
from reconvene.utils.tables import text_table

RESULTS = Path(__file__).parent / "results" / "rate_auto.jsonl"
HEADER = ["network", "arm", "auto %", "found rate", "s of the test", "best fixed %", "at rate", "auto minus best"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = compared(read_results(options.results))
    within = sum(float(row[-1]) >= -0.5 for row in rows)
    print(text_table(HEADER, rows, right=range(2, len(HEADER)), foot=[f"{within} of {len(rows)} within half a point"]))


def compared(records: list[dict[str, Any]]) -> list[list[str]]:
    """A row for every network and arm that was trained at a found rate and at fixed ones."""
    cells: dict[tuple[str, str], dict[Any, list[dict[str, Any]]]] = {}
    for record in records:
        run = record["run"]
        name = " ".join([run["model"], *(f"{key}={value}" for key, value in run["args"].items())])
        cells.setdefault((name, record["label"]), {}).setdefault(run["train"]["lr"], []).append(record)
    rows = []
    for (name, arm), by_rate in cells.items():
        found, fixed = by_rate.pop("auto", []), by_rate
        if not found or not fixed:
            continue
        accuracy = {rate: Mean.of([100 * r["accuracy"] for r in own]).value for rate, own in fixed.items()}
        best = max(accuracy, key=lambda rate: accuracy[rate])
        auto = Mean.of([100 * r["accuracy"] for r in found]).value
        rates = ", ".join(f"{r['recipe']['lr']:.3g}" for r in found)
        seconds = Mean.of([r["rate_test"]["seconds"] for r in found]).value
        rows.append(
            [
                name,
                arm,
                f"{auto:.1f}",
                rates,
                f"{seconds:.1f}",
                f"{accuracy[best]:.1f}",
                f"{best:g}",
                f"{auto - accuracy[best]:+.1f}",
            ]
        )
    return rows


if __name__ == "__main__":
    main()
