"""A recipe for a trained ResNet-20 is killed twenty times and must end in the bytes of an undisturbed run.

python benchmarks/killed_recipe.py --data ../shared/data/cifar10
python benchmarks/pages killed_recipe                         # writes the table of the docs

The recipe prunes, replaces ReLU by ReLU6, distils, quantises and exports to ONNX under a budget of size and latency.
``reconvene compress`` carries it out in a process of its own: once to the end, and once in a process that is killed
(SIGKILL) and started again. Weights, ONNX files and the channels of plans in both folders are compared. Records in JSON
hold measured latencies, and checksums of other records, so they differ between any two runs. The last
line of ``results/killed_recipe.jsonl`` for a data set has the table of the undisturbed run and the number of kills.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rows import put_row

import reconvene as rc
from reconvene import artifact
from reconvene.data import load_data
from reconvene.models import ModelSource
from reconvene.training import TrainConfig
from reconvene.training.machine import library_versions
from reconvene.utils.machine import now
from reconvene.workflow import train

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "killed_recipe.jsonl"
TIMED = (".json", ".jsonl", ".svg", ".txt")
"""Ends of the names of files that say how long something took."""
STAGES = [
    "prune",
    {"replace": {"allow": ["relu6"], "epochs": 1}},
    {"distil": {"epochs": 2}},
    "quantise",
    "export",
]
BUDGET = {"size": "150kB", "latency": "1.2x"}
"""The size decides the widths. Where a measured latency does, two undisturbed runs may differ, too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data" / "cifar10")
    parser.add_argument("--limit", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=8, help="of the dense network")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=120, help="seconds until a kill, at most")
    parser.add_argument("--work", type=Path, default=Path("out/killed_recipe"))
    given = parser.parse_args()
    if not given.data.is_dir():
        print(f"no data at {given.data}: nothing is measured")
        return
    recipe = write_recipe(given)
    start = time.monotonic()
    whole = given.work / "whole"
    if process(recipe, whole).wait():
        raise SystemExit(f"the recipe failed: see {whole}.txt")
    seconds = time.monotonic() - start
    kills = carried_out_and_killed(recipe, given.work / "killed", given.kills, given.longest)
    expected, reached = digests(whole), digests(given.work / "killed")
    different = sorted(name for name in expected | reached if expected.get(name) != reached.get(name))
    row: dict[str, Any] = {"data": given.data.name, "limit": given.limit, "epochs": given.epochs, "kills": kills}
    row |= {"files": len(expected), "different": different, "seconds": round(seconds), "budget": BUDGET}
    row |= {"table": str(rc.compress(recipe, whole)), "libraries": library_versions(), "date": now()}
    put_row(RESULTS, row, same=("data", "limit", "epochs"))
    print(f"killed {kills} times; {len(expected)} files, different: {', '.join(different) or 'none'}")
    raise SystemExit(bool(different) or kills < given.kills)


def write_recipe(given: argparse.Namespace) -> Path:
    """The recipe as a file, beside the dense network, which is trained here."""
    dense, data = given.work / "dense", given.data.resolve()
    source = ModelSource("resnet20", {"num_classes": 10}, (3, 32, 32))
    if not (dense / artifact.MANIFEST).exists():
        artifact.save(source.build(), dense, source=source)
    train(dense, load_data(data, limit=given.limit), epochs=given.epochs, config=TrainConfig(seed=0, device="cpu"))
    recipe = {
        "model": str(dense.resolve()),
        "data": str(data),
        "limit": given.limit,
        "budget": BUDGET,
        "stages": STAGES,
    }
    file: Path = given.work / "recipe.yaml"
    file.write_text(json.dumps(recipe, indent=2))  # JSON is YAML
    return file


def process(recipe: Path, folder: Path) -> subprocess.Popen[bytes]:
    """``reconvene compress`` in a process and a session of its own; its output goes into a file beside the folder."""
    command = [sys.executable, "-m", "reconvene", "compress", str(recipe), "-o", str(folder)]
    with Path(f"{folder}.txt").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def carried_out_and_killed(recipe: Path, folder: Path, kills: int, longest: float) -> int:
    """Carry the recipe out in processes that are killed at random; how often one was killed before it was done."""
    draw = random.Random(0)
    for count in range(kills):
        running = process(recipe, folder)
        try:
            code = running.wait(timeout=draw.uniform(0, longest))
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            print(f"kill {count + 1}", flush=True)
            continue
        if code:
            raise SystemExit(f"the recipe failed after {count} kills: see {folder}.txt")
        return count
    if process(recipe, folder).wait():
        raise SystemExit(f"the recipe failed after {kills} kills: see {folder}.txt")
    return kills


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by path in the folder: of every file without measured times, and of the channels that plans keep."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    contents = {path: path.read_bytes() for path in paths if not path.name.endswith(TIMED)}
    for path in (path for path in paths if path.name == "plan.json"):
        contents[path] = json.dumps(json.loads(path.read_text())["slices"], sort_keys=True).encode()
    return {str(path.relative_to(folder)): hashlib.sha256(value).hexdigest() for path, value in contents.items()}


if __name__ == "__main__":
    main()
