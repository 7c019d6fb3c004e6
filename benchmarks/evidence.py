"""The evidence, from nothing: runs what is not there yet, then writes docs/evidence.md and its plots from the results.

python benchmarks/evidence.py                     # tier small, in any slices: see below
python benchmarks/evidence.py --seconds 540       # one slice of it
python benchmarks/evidence.py --tier quick        # digits, into out/evidence-quick: proves the pipeline
python benchmarks/pages evidence                  # only write the page

"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pages.evidence import write_page

HERE = Path(__file__).parent
ROOT = HERE.parent
EXPERIMENTS = {"small": ("widths", "seconds", "variants", "residual", "rlr", "rate"), "quick": ("quick",)}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tier", choices=EXPERIMENTS, default="small")
    options.add_argument("--data", default=str(ROOT.parent / "shared" / "data" / "cifar10"), help="where CIFAR-10 lies")
    options.add_argument("--seconds", type=float, default=None, help="stop after so long; the same command goes on")
    options.add_argument("--jobs", type=int, default=2, help="experiments at once, each on one core")
    asked = options.parse_args()
    small = asked.tier == "small"
    results = HERE / "results" if small else ROOT / "out" / "evidence-quick"
    page = ROOT / "docs" / "evidence.md" if small else results / "evidence.md"
    start = time.monotonic()
    deadline = None if asked.seconds is None else start + asked.seconds
    with ThreadPoolExecutor(asked.jobs) as pool:
        codes = pool.map(lambda command: run(command, deadline), commands(asked.tier, asked.data, results))
        failed = sum(code != 0 for code in codes)
    write_page(results, page, tier=asked.tier)
    print(f"{page} written after {time.monotonic() - start:.0f} s", flush=True)
    return 1 if failed else 0


def run(command: list[str], deadline: float | None) -> int:
    """One command on one core; after the deadline nothing is started, and what runs stops itself."""
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        return 0
    limit = [] if left is None else ["--seconds", str(left)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command, *limit], env=alone, check=False).returncode


def commands(tier: str, data: str, results: Path) -> list[list[str]]:
    """Everything to run, most telling first, no two into one file; ``predict_other.py`` is run by hand, once."""
    suffix = "" if tier == "small" else f"_{tier}"
    ran = [[str(HERE / "predict.py"), "--tier", tier, "--data", data, "--results", str(results)]]
    for name in EXPERIMENTS[tier]:
        place = ROOT / "out" / "evidence" / name
        file, kept = str(HERE / "experiments" / f"{name}.toml"), str(results / f"{name}.jsonl")
        asked = ["-m", "reconvene", "compare", file, "--results", kept, "-o", str(place)]
        ran.append(asked if suffix else [*asked, "--data", f"cifar10={data}"])
    if tier == "small":
        ran.insert(3, [str(HERE / "headline.py"), "--data", f"cifar10={data}", "--results", str(results)])
    return ran


if __name__ == "__main__":
    raise SystemExit(main())
