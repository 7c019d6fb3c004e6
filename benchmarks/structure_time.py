"""Half of every layer removed by three tools, on the same models, machine and run.

    pip install -e '.[bench]' && python benchmarks/structure_time.py

Each tool gets each model in a process of its own, one after the other and in turn, with a limit of time and memory.
Imports and building the model are not counted. Writes ``benchmarks/results/structure_time.jsonl`` and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from architectures import all_architectures
from architectures.results import facts, version
from architectures.rivals import JOBS, judge_tool
from architectures.running import Limits, run_all

from zoo import ENVIRONMENT, ROOT

RESULTS = ROOT / "benchmarks" / "results" / "structure_time.jsonl"
MODELS = [
    "torchvision/resnet18", "torchvision/resnet50", "torchvision/mobilenet_v2", "torchvision/densenet121",
    "torchvision/efficientnet_b0", "torchvision/regnet_y_400mf", "torchvision/shufflenet_v2_x1_0",
    "torchvision/convnext_tiny", "torchvision/vit_b_16", "torchvision/swin_t", "timm/levit_128s", "timm/pvt_v2_b0",
    "timm/hrnet_w18_small", "timm/coat_tiny",
]  # fmt: skip


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="names or patterns")
    parser.add_argument("--tools", nargs="+", default=list(JOBS), choices=list(JOBS), help="who takes part")
    parser.add_argument("--seconds", type=float, default=60, help="limit of one tool on one model (60)")
    parser.add_argument("--gigabytes", type=float, default=9, help="memory limit in GiB (9)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    inherited = os.environ.get("PYTHONPATH")
    os.environ.update(ENVIRONMENT)
    if inherited:
        os.environ["PYTHONPATH"] += os.pathsep + inherited
    models = [name for wanted in options.models for name in all_architectures() if fnmatch(name, wanted)]
    turns = [
        f"{tool}|{model}"
        for number, model in enumerate(models)
        for tool in options.tools[number % len(options.tools) :] + options.tools[: number % len(options.tools)]
    ]
    common = {**facts(ROOT), "rivals": {name: version(name) for name in JOBS if name != "reconvene"}}
    limits = Limits(seconds=options.seconds, gigabytes=options.gigabytes, jobs=1)
    records = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8") as file:
        for record in run_all(turns, limits, judge_tool, preload="architectures.imports"):
            records.append(tidy(record))
            file.write(json.dumps({**records[-1], **common}) + "\n")
            file.flush()
            print(line(records[-1]), flush=True)
    summarise(records, options.tools)
    return 0


def tidy(record: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a record, rounded."""
    tool, _, model = record.pop("name").partition("|")
    record = {"tool": tool, "model": model, "ok": False, **record}
    inner = ("source", "stage", "verdict", "peak_rss_mib")
    rounded = {k: round(v, 4) if isinstance(v, float) and k != "off" else v for k, v in record.items()}
    return {k: v for k, v in rounded.items() if k not in inner}


def line(record: dict[str, Any]) -> str:
    """One result in one line."""
    outcome = record.get("error", "ended")
    if record["ok"]:
        outcome = f"kept {record['kept']:.0%}, lossless {record['lossless']}"
    cpu = record.get("cpu_seconds", float("nan"))
    return f"{record['model']:34} {record['tool']:15} {record['seconds']:7.2f} s wall {cpu:7.2f} s cpu  {outcome}"


def summarise(records: list[dict[str, Any]], tools: list[str]) -> None:
    """Successes, medians, and how many times faster ours is where a rival succeeds, too."""
    mine = {r["model"]: r for r in records if r["tool"] == "reconvene" and r["ok"]}
    print(f"\n{'tool':16}{'success':>10}{'wrong':>7}{'median s':>10}{'worst s':>9}{'median MiB':>12}{'times ours':>12}")
    for tool in tools:
        own = [r for r in records if r["tool"] == tool]
        good = [r for r in own if r["ok"] and r["lossless"] is not False]
        wrong = sum(r["ok"] and r["lossless"] is False for r in own)
        ratios = [r["cpu_seconds"] / mine[r["model"]]["cpu_seconds"] for r in good if r["model"] in mine]
        print(
            f"{tool:16}{f'{len(good)}/{len(own)}':>10}{wrong:>7}{middle([r['cpu_seconds'] for r in good]):>10.3f}"
            f"{max((r['cpu_seconds'] for r in good), default=float('nan')):>9.2f}"
            f"{middle([r['peak_mib_above_model'] for r in good]):>12.0f}{middle(ratios):>12.1f}"
        )


def middle(values: list[float]) -> float:
    """The median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")


if __name__ == "__main__":
    sys.exit(main())
