"""The sweep: structure found, half removed, replayed, held against the silenced reference and trained, on every model.

    python benchmarks/zoo.py                 # what the results do not hold yet for this engine
    python benchmarks/zoo.py --only 'timm/*vit*' --again
    python benchmarks/zoo.py --check         # fails if a model does worse than architectures/expected.json says

Each model runs in a process of its own, under a time and a memory limit, and becomes one line of
``benchmarks/results/zoo.jsonl``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from architectures import all_architectures
from architectures.child import judge
from architectures.results import Results, accept, expected, facts, worse
from architectures.running import Limits, run_all

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "benchmarks")]
# What the processes of the models start with: the proof of the tests, one thread, no network.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS), "HF_HUB_OFFLINE": "1"}
RESULTS = ROOT / "benchmarks" / "results" / "zoo.jsonl"


def main() -> int:
    """Run the sweep; the exit code is 1 when ``--check`` finds a model that does worse than expected."""
    options = arguments()
    os.environ.update(ENVIRONMENT)
    every = all_architectures()
    names = [name for name in every if matches(name, options.only)]
    if not names:
        sys.exit(f"no architecture matches {options.only}. Try --list.")
    if options.list:
        print(*names, sep="\n")
        return 0
    results = Results(options.out)
    common = facts(ROOT)
    todo = [n for n in names if options.again or not results.has(n, engine=common["engine"])]
    print(f"{len(todo)} models to run, {len(names) - len(todo)} known for this engine ({common['commit']})", flush=True)
    limits = Limits(seconds=options.seconds, gigabytes=options.gigabytes, jobs=options.jobs)
    started = time.perf_counter()
    for number, record in enumerate(run_all(todo, limits, judge), 1):
        results.add({**record, **common})
        show(number, len(todo), record)
        sys.stdout.flush()
    results.compact(list(every))
    print(f"{time.perf_counter() - started:.0f} s")
    if options.accept:
        accept([record for name, record in results.records.items() if name in every])
    return report([results.records[n] for n in names if n in results.records], check=options.check)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="PATTERN", help="names to run, such as 'timm/*vit*'")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--again", action="store_true", help="also run what is known for this engine")
    parser.add_argument("--check", action="store_true", help="fail on any model that does worse than expected")
    parser.add_argument("--accept", action="store_true", help="expect of each model what the results say now")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (2)")
    parser.add_argument("--seconds", type=float, default=300, help="time limit of a model (300)")
    parser.add_argument("--gigabytes", type=float, default=9, help="memory limit of a model in GiB (9)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results are")
    return parser.parse_args()


def matches(name: str, patterns: list[str] | None) -> bool:
    """Whether a name is asked for: a pattern, or a part of the name."""
    return not patterns or any(fnmatch(name, pattern) or pattern in name for pattern in patterns)


def show(number: int, total: int, record: dict[str, Any]) -> None:
    """One line for one model."""
    structure, kept = record.get("structure_cpu_seconds", float("nan")), record.get("kept", float("nan"))
    figures = (
        f"structure {structure:.2f} s, kept {kept:.0%}, {record['seconds']:.0f} s, {record['peak_rss_mib']:.0f} MiB"
    )
    print(f"[{number}/{total}] {record['name']}: {record['verdict']} ({figures})", flush=True)


def report(records: list[dict[str, Any]], *, check: bool) -> int:
    """Count the verdicts and, when asked, name what became worse."""
    kinds = [record["verdict"].partition(" (")[0] for record in records]
    print(", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)))
    wanted = expected()
    lost = [record for record in records if worse(record, wanted)]
    for record in lost:
        print(f"WORSE {record['name']}: {record['verdict']}, expected {wanted.get(record['name'], 'proved')}")
    return 1 if check and lost else 0


if __name__ == "__main__":
    sys.exit(main())
