"""The sweep: every network on the road that users take, from ``rc.plan`` to a verified ONNX file.

    python benchmarks/zoo.py                       # what the results do not hold yet for this engine
    python benchmarks/zoo.py --only 'timm/*vit*' --again
    python benchmarks/zoo.py --rotation today      # also a tenth of the other networks of timm, by the date
    python benchmarks/zoo.py --seconds 3600        # start no network after an hour; the next call goes on
    python benchmarks/zoo.py --stages plan,apply,compare
    python benchmarks/zoo.py --value-checks        # every network looks at values: plan, apply and compare only
    python benchmarks/zoo.py --check               # fails if a network does worse than architectures/expected.json says

Each network runs in a process of its own, under a time and a memory limit, and becomes one line of
``benchmarks/results/zoo.jsonl`` (``zoo_values.jsonl`` with checks of values).
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from architectures import all_architectures, other_architectures
from architectures.child import judge
from architectures.results import STAGES, Options, Results, accept, expected, facts, worse
from architectures.rotation import tenth
from architectures.running import Limits, run_all

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "benchmarks")]
# What the processes of the networks start with: the proof of the tests, one thread, no network.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS), "HF_HUB_OFFLINE": "1"}
RESULTS = ROOT / "benchmarks" / "results"
PRELOAD = "architectures.preload_export"
VALUE_STAGES = STAGES[:3]


def main() -> int:
    """Run the sweep; the exit code is 1 when ``--check`` finds a network that does worse than expected."""
    options = arguments()
    os.environ.update(ENVIRONMENT)
    names = chosen_names(options.only, options.rotation)
    if not names:
        sys.exit(f"no architecture matches {options.only}. Try --list.")
    if options.list:
        print(*names, sep="\n")
        return 0
    results = Results(options.out or RESULTS / ("zoo_values.jsonl" if options.value_checks else "zoo.jsonl"))
    run(names, results, options)
    order = [*all_architectures(), *other_architectures()]
    results.compact(order)
    if options.accept:
        accept([record for name, record in results.records.items() if name in order])
    return report([results.records[n] for n in names if n in results.records], check=options.check)


def run(names: list[str], results: Results, options: argparse.Namespace) -> None:
    """Take every network that the results do not hold yet through its stages, until the time is over."""
    common = facts(ROOT)
    known = partial(results.has, engine=common["engine"], stages=options.stages)
    waiting = [name for name in names if options.again or not known(name)]
    print(f"{len(waiting)} networks to run, {len(names) - len(waiting)} known for this engine ({common['commit']})")
    limits = Limits(seconds=options.limit, gigabytes=options.gigabytes, jobs=options.jobs, total=options.seconds)
    started = time.perf_counter()
    work = partial(judge, options=Options(stages=options.stages, value_checks=options.value_checks))
    for number, record in enumerate(run_all(waiting, limits, work, preload=PRELOAD), 1):
        results.add({**record, **common})
        show(number, len(waiting), record)
    print(f"{time.perf_counter() - started:.0f} s")


def chosen_names(patterns: list[str] | None, rotation: str | None) -> list[str]:
    """Every network of all sweeps and those of the rotation, as far as the patterns match."""
    names = list(all_architectures())
    if rotation is not None:
        others = list(other_architectures())
        names += others if rotation == "all" else tenth(others, day(rotation))
    return [name for name in names if matches(name, patterns)]


def day(text: str) -> datetime.date:
    """A date in ISO form, or today's."""
    return datetime.date.today() if text == "today" else datetime.date.fromisoformat(text)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="PATTERN", help="names to run, such as 'timm/*vit*'")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--again", action="store_true", help="also run what is known for this engine")
    parser.add_argument("--check", action="store_true", help="fail on any network that does worse than expected")
    parser.add_argument("--accept", action="store_true", help="expect of each network what the results say now")
    parser.add_argument("--rotation", metavar="DATE", help="other networks: a tenth by the date, 'today', or 'all'")
    parser.add_argument("--stages", type=stages_of, default=None, help=f"some of {','.join(STAGES)} (all)")
    parser.add_argument("--value-checks", action="store_true", help="put checks of values around every network")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (2)")
    parser.add_argument("--seconds", type=float, help="start no network after so many seconds")
    parser.add_argument("--limit", type=float, default=600, help="time limit of a network in seconds (600)")
    parser.add_argument("--gigabytes", type=float, default=9, help="memory limit of a network in GiB (9)")
    parser.add_argument("--out", type=Path, help="where the results are")
    options = parser.parse_args()
    if options.stages is None:
        options.stages = VALUE_STAGES if options.value_checks else STAGES
    elif options.value_checks and not set(options.stages) <= set(VALUE_STAGES):
        parser.error(f"with --value-checks the stages are {','.join(VALUE_STAGES)}")
    return options


def stages_of(text: str) -> tuple[str, ...]:
    """Stages by name, separated by commas, each with all that it needs."""
    names = text.split(",")
    if unknown := set(names) - set(STAGES):
        raise argparse.ArgumentTypeError(f"no stage {', '.join(sorted(unknown))}. Stages: {', '.join(STAGES)}")
    needed = {"plan"} | ({"apply"} if set(names) != {"plan"} else set()) | ({"save"} if "load" in names else set())
    return tuple(stage for stage in STAGES if stage in needed or stage in names)


def matches(name: str, patterns: list[str] | None) -> bool:
    """Whether a name is asked for: a pattern, or a part of the name."""
    return not patterns or any(fnmatch(name, pattern) or pattern in name for pattern in patterns)


def show(number: int, total: int, record: dict[str, Any]) -> None:
    """One line for one network."""
    seconds = ", ".join(f"{stage} {facts['seconds']:.1f}" for stage, facts in record.get("stages", {}).items())
    figures = f"{record['seconds']:.0f} s: {seconds}; {record['peak_rss_mib']} MiB"
    print(f"[{number}/{total}] {record['name']}: {record['verdict']} ({figures})", flush=True)


def report(records: list[dict[str, Any]], *, check: bool) -> int:
    """Count the verdicts and, when asked, name what became worse."""
    kinds = [record["verdict"].partition(" (")[0] for record in records]
    print(", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)))
    wanted = expected()
    lost = [record for record in records if worse(record, wanted)]
    for record in lost:
        print(f"WORSE {record['name']}: {record['verdict']}, expected {wanted.get(record['name'], 'passed')}")
    return 1 if check and lost else 0


if __name__ == "__main__":
    sys.exit(main())
