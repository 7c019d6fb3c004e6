"""The headline: VGG-16 16.21x smaller and at least 4x less compute; dense, its unstructured counterpart, ours.

    python benchmarks/headline.py                            # two cores, about an hour
    python benchmarks/headline.py --tier paper --seconds 3000  # two cores, the whole network, hours: resumable
    python benchmarks/headline.py --tier full --seconds 540  # one GPU: again and again until nothing is left
    python benchmarks/headline.py --tier full_64 --data tiny=PATH --seconds 540
    python benchmarks/headline.py --tier full --steps 2      # does the full tier run here? two steps of each arm

Every call goes on from the last checkpoint. One table at the end; ``make evidence`` puts it into the docs.
"""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

from reconvene.experiments import Experiment, ExperimentState, compare, make_experiment
from reconvene.experiments.summary import ArmSummary, summarise
from reconvene.utils.progress import notes_to
from reconvene.utils.tables import text_table

HERE = Path(__file__).parent
TIERS = {tier: HERE / "experiments" / f"headline_{tier}.toml" for tier in ("small", "paper", "full", "full_64")}
HEADER = [
    "arm",
    "budget",
    "accuracy %",
    "seeds",
    "parameters",
    "file KiB",
    "MACs",
    "ms",
    "speed-up",
    "prune s",
    "train s",
]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tier", choices=TIERS, default="small")
    options.add_argument("--data", action="append", default=[], metavar="NAME=SPEC")
    options.add_argument("--seconds", type=float, default=None)
    options.add_argument("--steps", type=int, default=None, help="so many steps of training only, to try it out")
    options.add_argument("--results", type=Path, default=HERE / "results")
    asked = options.parse_args()
    sources = dict(pair.split("=", 1) for pair in asked.data)
    outcome = carry_out(asked.tier, sources, asked.results, seconds=asked.seconds, steps=asked.steps)
    lines = summarise(outcome.records)
    for model in dict.fromkeys(line.model for line in lines):
        rows = [row(line) for line in lines if line.model == model]
        print(text_table(HEADER, rows, right=range(2, len(HEADER)), title=model))
    for trouble in outcome.failed.values():
        print(f"failed: {trouble}")
    if outcome.left:
        print(f"{outcome.left} runs are left: the same command goes on")
    return 1 if outcome.failed else 0


def carry_out(
    tier: str, sources: dict[str, str], results: Path, *, seconds: float | None = None, steps: int | None = None
) -> ExperimentState:
    """Run the tier as far as time allows."""
    values = tomllib.loads(TIERS[tier].read_text())
    name = f"headline_{tier}"
    if steps is not None:
        values, name = tried(values, steps), f"{name}_tried"
        results = Path(tempfile.mkdtemp(prefix="reconvene-headline-"))
    experiment: Experiment = make_experiment(values, name=name, sources=sources)
    work = Path(tempfile.gettempdir()) / f"reconvene-{name}"
    with notes_to(partial(print, flush=True)):
        return compare(experiment, results / f"{name}.jsonl", work, seconds=seconds)


def tried(values: dict[str, Any], steps: int) -> dict[str, Any]:
    """The tier with one seed, one budget and ``steps`` steps of a small batch: everything runs, nothing is learnt."""
    batch = 32
    data = [{**entry, "limit": steps * batch} for entry in values["data"]]
    train = {**values["train"], "batch_size": batch}
    return {**values, "epochs": 1, "seeds": [0], "data": data, "budgets": values["budgets"][:1], "train": train}


def row(line: ArmSummary) -> list[str]:
    """One arm of the headline."""
    first = line.records[0]
    seconds = sum(record["training"]["seconds"] for record in line.records) / len(line.records)
    return [
        line.label,
        line.budget,
        line.score_text,
        str(line.score.n),
        f"{first['params']:,}",
        f"{first['size'] / 1024:,.0f}",
        f"1/{1 / line.macs:.3g}",
        "" if line.latency is None else f"{line.latency * 1e3:.2f}",
        "" if line.speedup is None else f"{line.speedup:.2f}x",
        f"{line.search:.1f}",
        f"{seconds:.0f}",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
