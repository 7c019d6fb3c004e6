"""How much time pruning saves on encrypted images, beside the multiply-accumulates that it saves.

    python benchmarks/encrypted_time.py       # needs TenSEAL: pip install 'reconvene[encrypted]'; about five minutes
    python benchmarks/pages encrypted_time

The networks of ``examples/encrypted_digits.py``, trained, one ciphertext for each feature of 300 images. Dense and
pruned run in turns in one process; every line of ``results/encrypted_time.jsonl`` is one budget.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

from rows import Row, put_row, read_rows

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import torch  # noqa: E402
from encrypted_digits import IMAGES, build, encrypted, train  # noqa: E402

import reconvene as rc  # noqa: E402
from reconvene.data import load_data  # noqa: E402
from reconvene.utils.machine import machine, now  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "encrypted_time.jsonl"
BUDGETS, ROUNDS = ("2x", "4x", "8x"), 5


def main() -> None:
    """Measure every budget that has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), metavar="MACS")
    parser.add_argument("--again", action="store_true", help="also budgets that have a row")
    given = parser.parse_args()
    done = set() if given.again else {row["macs"] for row in read_rows(RESULTS)}
    if set(given.budgets) <= done:
        print("every budget has a row: nothing is measured. --again measures once more")
    for budget in (budget for budget in given.budgets if budget not in done):
        row = measured(budget)
        put_row(RESULTS, row, same=("macs",))
        print(row, flush=True)


def measured(budget: str) -> Row:
    """Seconds of every round, products and agreement of the dense and the pruned network."""
    torch.manual_seed(0)
    data = load_data("digits", input_shape=(1, 8, 8))
    images = data.normalise(data.test.images[:IMAGES])
    dense = build(64)
    networks = {"dense": dense, "pruned": rc.prune(dense, images[:1], budget=rc.Budget(macs=budget))}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    row: Row = {"macs": budget, "products": {}, "multiply_accumulates": {}, "agreement": {}, "error": {}}
    for network in networks.values():
        train(network, data)
    for _ in range(ROUNDS):
        for name, network in networks.items():
            _, run = encrypted(network, images)
            seconds[name].append(run.seconds)
            expected = network(images).detach().double()
            row["products"][name] = run.products
            row["multiply_accumulates"][name] = rc.measure(network, images[:1]).macs
            row["agreement"][name] = float((run.scores.argmax(1) == expected.argmax(1)).double().mean())
            row["error"][name] = float((run.scores - expected).abs().max())
    ratios = [dense_s / pruned_s for dense_s, pruned_s in zip(seconds["dense"], seconds["pruned"], strict=True)]
    return {**row, "seconds": seconds, "ratio": median(ratios), "machine": machine(), "date": now()}


if __name__ == "__main__":
    main()
