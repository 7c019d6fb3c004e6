"""What structure costs as networks grow: seconds against recorded calls, and large models without their weights.

    python benchmarks/structure_scaling.py

Every model is built on the meta device, where tensors have shapes and no numbers, and analysed in a process of its
own. Writes ``benchmarks/results/structure_scaling.jsonl`` and prints the curve of each series: with cost in proportion
to the calls, the exponent is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from architectures.growing import LARGE, SERIES, judge_size
from architectures.results import facts
from architectures.running import Limits, run_all

from zoo import ENVIRONMENT, ROOT

RESULTS = ROOT / "benchmarks" / "results" / "structure_scaling.jsonl"
LIMIT = 10.0
"""Seconds within which a large model must be done."""


def main() -> int:
    """Measure, write, print; the exit code is 1 if a large model took too long or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    names = [*(f"{series}/{size}" for series, (_, sizes) in SERIES.items() for size in sizes), *LARGE]
    common = facts(ROOT)
    records = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8") as file:
        for record in run_all(names, Limits(seconds=300, gigabytes=9, jobs=1), judge_size):
            records.append(record)
            file.write(json.dumps({**record, **common}) + "\n")
            print(line(record), flush=True)
    for series in SERIES:
        print(curve(series, [r for r in records if r["source"] == series and "cpu_seconds" in r]))
    slow = [r for r in records if r["name"] in LARGE and not r.get("seconds_structure", LIMIT + 1) < LIMIT]
    for record in slow:
        print(f"TOO SLOW {record['name']}: {record}")
    return 1 if slow else 0


def line(record: dict[str, Any]) -> str:
    """One model in one line."""
    if "cpu_seconds" not in record:
        return f"{record['name']:28} {record['verdict']}"
    return (
        f"{record['name']:28} {record['parameters'] / 1e6:8.0f} M parameters {record['ops']:6} calls "
        f"{record['cpu_seconds']:7.3f} s cpu {record['seconds_structure']:7.3f} s wall "
        f"+{record['mib_above_start']:5.0f} MiB  {record['groups']:4} groups  {record['notes']}"
    )


def curve(series: str, records: list[dict[str, Any]]) -> str:
    """The exponent of cost over calls, and milliseconds per call at either end."""
    calls = np.array([r["ops"] for r in records], dtype=float)
    seconds = np.array([r["cpu_seconds"] for r in records])
    if len(calls) < 2:
        return f"{series}: too few points"
    exponent = np.polyfit(np.log(calls), np.log(seconds), 1)[0]
    cost = 1000 * seconds / calls
    return f"{series}: seconds grow as calls^{exponent:.2f}; {cost[0]:.3f} ms a call at first, {cost[-1]:.3f} at last"


if __name__ == "__main__":
    sys.exit(main())
