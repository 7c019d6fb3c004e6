"""In which order are a network's compressions best? Four orders of the same stages, with as many epochs in all.

python benchmarks/compress_orders.py --data digits            # every order and seed that is not there yet
python benchmarks/compress_orders.py --data ../shared/data/cifar10 --limit 10000 --epochs 8
python benchmarks/compress_orders.py --table                  # only write the table in docs/compress.md anew

Every line of ``results/compress_orders.jsonl`` is one recipe: its stages with the accuracy of the file in ONNX Runtime,
its bytes and costs. Stopped, the same command goes on within the recipe: its folders stay in ``out/compress_orders``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from generated import GeneratedPart, add_row, read_rows

import reconvene as rc
from reconvene.training.machine import library_versions
from reconvene.utils.machine import now

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "compress_orders.jsonl", HERE.parent / "docs" / "compress.md"
PART = GeneratedPart(PAGE, "<!-- generated: orders -->\n", "<!-- end of orders -->")
LOOSE = {"agreement": 0.0, "sqnr": -100.0, "accuracy_drop": 1.0}
"""Limits that no file breaks: a bad order stays in the table."""


def orders(epochs: int) -> dict[str, list[dict[str, Any]]]:
    """The stages of every order: ``epochs`` of training, half as many of tuning, a quarter quantisation-aware."""
    train, tune = {"train": {"epochs": epochs}}, {"distil": {"epochs": max(epochs // 2, 1)}}
    prune, aware = {"prune": {"macs": "4x"}}, {"quantise": {"epochs": max(epochs // 4, 1)}}
    plain = {"train": {"epochs": epochs + max(epochs // 2, 1)}}
    return {
        "train, prune, distil, quantise": [train, prune, tune, aware],
        "prune, train, quantise": [prune, plain, aware],
        "train, quantise, prune, distil": [train, aware, prune, tune],
        "train, prune, quantise, distil": [train, prune, {"train": {"epochs": 1}}, aware, _less(tune)],
    }


def _less(tune: Mapping[str, Any]) -> dict[str, Any]:
    """One epoch fewer: the one in which the pruned network was trained before it was quantised."""
    return {"distil": {"epochs": max(tune["distil"]["epochs"] - 1, 1)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--only", help="only orders whose name has this in it")
    parser.add_argument("--table", action="store_true", help="only write the table in docs/compress.md anew")
    parser.add_argument("--check", action="store_true", help="only say whether that table is as the results have it")
    given = parser.parse_args()
    if given.table or given.check:
        changed = PART.update(table(), write=given.table)
        raise SystemExit(changed if given.check else 0)
    torch.set_num_threads(1)
    for seed in range(given.seeds):
        for name, stages in orders(given.epochs).items():
            if given.only and given.only not in name:
                continue
            asked = {"order": name, "seed": seed, "data": Path(given.data).name, "limit": given.limit}
            asked |= {"model": given.model, "width": given.width, "epochs": given.epochs}
            if any({key: row[key] for key in asked} == asked for row in read_rows(RESULTS)):
                continue
            recipe = {"model": given.model, "args": {"width": given.width}, "data": given.data, "limit": given.limit}
            folder = "-".join([str(value).replace(", ", "-") for value in asked.values()])
            result = rc.compress(
                {**recipe, "seed": seed, "stages": [*stages, {"export": LOOSE}]}, Path("out/compress_orders") / folder
            )
            row = {
                **asked,
                "stages": [asdict(stage) for stage in result.stages],
                "libraries": library_versions(),
                "date": now(),
            }
            add_row(RESULTS, row)
            print(result, flush=True)


def settings() -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The rows of every network, data and number of epochs, in the order of the file."""
    names = ("model", "width", "data", "limit", "epochs")
    rows = read_rows(RESULTS)
    for chosen in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        yield dict(zip(names, chosen, strict=True)), [r for r in rows if tuple(r[n] for n in names) == chosen]


def table() -> str:
    """The results as they stand in docs/compress.md: accuracy of the exported file, mean and spread over seeds."""
    lines: list[str] = []
    for chosen, rows in settings():
        lines += [
            f"{chosen['model']}, width {chosen['width']:g}, {chosen['data']}, {chosen['limit']} images of a split, "
            f"{chosen['epochs']} epochs of training:",
            "",
            "| order | seeds | accuracy of the int8 file | its bytes | MACs | before it was compressed |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for order in dict.fromkeys(row["order"] for row in rows):
            of_order = [row["stages"] for row in rows if row["order"] == order]
            last = [stages[-1] for stages in of_order]
            scores, dense = [stage["score"] for stage in last], [_trained(stages) for stages in of_order]
            spread = f" ± {stdev(scores):.1%}" if len(scores) > 1 else ""
            size = mean(stage["costs"]["size"] for stage in last)
            macs = mean(stage["costs"]["macs"] for stage in last) / 1e6
            before = "" if None in dense else f"{mean(value for value in dense if value is not None):.1%}"
            lines.append(
                f"| {order} | {len(scores)} | {mean(scores):.1%}{spread} | {size:,.0f} | {macs:.2f} M | {before} |"
            )
        lines.append("")
    return "\n".join(lines)


def _trained(stages: list[dict[str, Any]]) -> float | None:
    """The accuracy of the dense trained network, where the order has one."""
    return (
        stages[1]["score"] if stages[1]["stage"] == "train" and stages[1]["costs"] == {**stages[0]["costs"]} else None
    )


if __name__ == "__main__":
    main()
