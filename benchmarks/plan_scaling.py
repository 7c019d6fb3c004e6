"""What a whole ``rc.plan`` costs as networks grow: seconds by step, and memory beside the weights.

    python benchmarks/plan_scaling.py

Chains of 125 to 2,000 linear layers, wide chains up to 302 million parameters, and well-known networks; each in a
process of its own, on one thread, to half of the parameters by the default and by ``magnitude``. Writes
``benchmarks/results/plan_scaling.jsonl``, from which ``pages/speed.py`` writes docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from architectures.growing import PLANNED, judge_plan
from architectures.results import facts
from architectures.running import Limits, run_all

from zoo import ENVIRONMENT, ROOT

RESULTS = ROOT / "benchmarks" / "results" / "plan_scaling.jsonl"


def main() -> int:
    """Measure, write, print; the exit code is 1 if a plan failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    common, failed = facts(ROOT), 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8") as file:
        for record in run_all(list(PLANNED), Limits(seconds=300, gigabytes=18, jobs=1), judge_plan):
            failed += record["verdict"] != "done"
            file.write(json.dumps({**record, **common}) + "\n")
            print(line(record), flush=True)
    return int(failed > 0)


def line(record: dict[str, Any]) -> str:
    """One network in one line."""
    if record["verdict"] != "done":
        return f"{record['name']:40} {record['verdict']}"
    return (
        f"{record['name']:40} {record['parameters'] / 1e6:8.1f} M {record['plan_seconds']:7.2f} s, "
        f"{record['magnitude_seconds']:7.2f} s by magnitude, comparison {record['verify_share']:.0%}, "
        f"{record['memory_ratio']:.2f} times the weights"
    )


if __name__ == "__main__":
    sys.exit(main())
