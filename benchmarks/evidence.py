"""The evidence, from nothing: runs what is not there yet, then writes docs/evidence.md and its plots from the results.

python benchmarks/evidence.py                     # tier small, in any slices: see below
python benchmarks/evidence.py --seconds 540       # one slice of it
python benchmarks/evidence.py --tier quick        # digits, into out/evidence-quick: proves the pipeline
python benchmarks/evidence.py --pages             # only write the page; --check: fail if it is not up to date

From the speed of single runs, tier small takes an estimated four hours of two idle cores; it has not been run as a
whole.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from evidence_page import write_page

HERE = Path(__file__).parent
ROOT = HERE.parent
EXPERIMENTS = {"small": ("widths", "residual", "rlr"), "quick": ("quick",)}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--tier", choices=EXPERIMENTS, default="small")
    options.add_argument("--data", default=str(ROOT.parent / "shared" / "data" / "cifar10"), help="where CIFAR-10 lies")
    options.add_argument("--seconds", type=float, default=None, help="stop after so long; the same command goes on")
    options.add_argument("--pages", action="store_true", help="run nothing")
    options.add_argument("--check", action="store_true", help="run nothing, write nothing: is the page up to date?")
    asked = options.parse_args()
    small = asked.tier == "small"
    results = HERE / "results" if small else ROOT / "out" / "evidence-quick"
    page = ROOT / "docs" / "evidence.md" if small else results / "evidence.md"
    if asked.check:
        return 0 if write_page(results, page, tier=asked.tier, check=True) else 1
    start = time.monotonic()
    failed = 0
    if not asked.pages:
        for command in commands(asked.tier, asked.data, results):
            left = (
                [] if asked.seconds is None else ["--seconds", str(max(1.0, asked.seconds - time.monotonic() + start))]
            )
            if asked.seconds is not None and time.monotonic() - start >= asked.seconds:
                break
            failed += subprocess.run([sys.executable, *command, *left], check=False).returncode != 0
    write_page(results, page, tier=asked.tier)
    print(f"{page} written after {time.monotonic() - start:.0f} s", flush=True)
    return 1 if failed else 0


def commands(tier: str, data: str, results: Path) -> list[list[str]]:
    """Everything to run, most telling first; ``predict_other.py`` is run by hand, once."""
    suffix = "" if tier == "small" else f"_{tier}"
    ran = [[str(HERE / "predict.py"), "--tier", tier, "--data", data, "--results", str(results)]]
    for name in EXPERIMENTS[tier]:
        place = ROOT / "out" / "evidence" / name
        file, kept = str(HERE / "experiments" / f"{name}.toml"), str(results / f"{name}.jsonl")
        run = ["-m", "reconvene", "compare", file, "--results", kept, "-o", str(place)]
        ran.append(run if suffix else [*run, "--data", f"cifar10={data}"])
    if tier == "small":
        ran.append([str(HERE / "headline.py"), "--data", f"cifar10={data}"])
    return ran


if __name__ == "__main__":
    raise SystemExit(main())
