"""CREPE tiny, a trained network of pitch, at half of its parameters: raw pitch accuracy on tones of known pitch.

Every line of ``results/pitch.jsonl`` is one seed: the network as it comes, as cut, with its layers reconstructed from
tones (no labels), and after a hundred steps in which it learns the outputs of the network as it came. The tones are
synthesised, so that their pitch is known: harmonics of random loudness and phase, and noise.

    python benchmarks/pitch.py                # needs torchcrepe: make test-public brings it
    python benchmarks/pages pitch

Raw pitch accuracy: share of frames whose pitch is within 50 cents of the truth (Kim et al., CREPE, arXiv 1802.06182).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rows import Row, add_row, read_rows

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / ".public-networks")]

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import reconvene as rc  # noqa: E402
from reconvene.utils.machine import now  # noqa: E402
from support.pitch import batches_of_tones, pitch_loss, raw_pitch_accuracy, tones  # noqa: E402
from support.public_weights import crepe, package_folder  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "pitch.jsonl"
STEPS, BATCH = 100, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--params", default="2x")
    given = parser.parse_args()
    if package_folder("torchcrepe") is None:
        print("torchcrepe is not installed: nothing is measured. Try: make test-public")
        return
    torch.set_num_threads(1)
    done = {(row["params"], row["seed"]) for row in read_rows(RESULTS)}
    for seed in range(given.seeds):
        if (given.params, seed) not in done:
            row = measured(given.params, seed)
            add_row(RESULTS, row)
            print(row, flush=True)


def measured(params: str, seed: int, steps: int = STEPS) -> Row:
    """One seed: raw pitch accuracy at every stage, and the seconds of pruning and of distillation."""
    dense = crepe()
    batches = batches_of_tones(512, seed=seed, size=BATCH)
    example_inputs = batches[0][0][:2]
    test_frames, test_cents = tones(1000, seed=1000 + seed)
    budget = rc.Budget(params=params)
    accuracy = {"dense": raw_pitch_accuracy(dense, test_frames, test_cents)}
    begin = time.perf_counter()
    options: dict[str, Any] = {"trained": True, "data": batches, "loss": pitch_loss, "seed": seed}
    plan = rc.plan(dense, example_inputs, budget, **options)
    small = plan.apply(dense)
    accuracy["as cut"] = raw_pitch_accuracy(small, test_frames, test_cents)
    rc.rectify(small, plan, example_inputs, "reconstruct", model=dense, data=batches)
    seconds = time.perf_counter() - begin
    accuracy["reconstructed"] = raw_pitch_accuracy(small, test_frames, test_cents)
    begin = time.perf_counter()
    distil(small, dense, seed=seed, steps=steps)
    accuracy["distilled"] = raw_pitch_accuracy(small, test_frames, test_cents)
    return {
        "params": params,
        "seed": seed,
        "steps": steps,
        "accuracy": accuracy,
        "costs": plan.costs,
        "seconds": {"prune": seconds, "distil": time.perf_counter() - begin},
        "date": now(),
    }


def distil(small: nn.Module, teacher: nn.Module, *, seed: int, steps: int) -> None:
    """Train ``small`` to give what ``teacher`` gives for fresh tones; norms keep their statistics."""
    small.eval()
    optimizer = torch.optim.Adam(small.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    frames, _ = tones(steps * BATCH, seed=2000 + seed)
    for batch in frames.split(BATCH):
        with torch.no_grad():
            wanted = teacher(batch)
        loss = functional.binary_cross_entropy(small(batch), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


if __name__ == "__main__":
    main()
