"""Processor seconds of whole commands, as multiples of loading PyTorch.

    python benchmarks/command_time.py                         # prune, inspect and export of three networks, five times
    python benchmarks/command_time.py prune --repeats 2       # one command
    python benchmarks/command_time.py --models vgg16_bn

Every command takes turns with ``python -c "import torch"`` (A B A B ...), so that a change of the machine's pace falls
on both; the ratio is the median over the pairs. Networks of torchvision and timm load these packages, which import
PyTorch's compiler: what they take is said beside. Each row goes to ``benchmarks/results/command_time.jsonl`` as it is
measured, in place of an older one of the same network and command.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from architectures.results import facts
from rows import put_row

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "command_time.jsonl"
MODELS = {
    "vgg16_bn": ("vgg16_bn", "torch"),
    "resnet50@224": ("torchvision:resnet50", "torch, torchvision"),
    "vit_small@224": ("timm:vit_small_patch16_224", "torch, timm"),
}
"""Address of a network, and the packages that building it imports."""
COMMANDS = {
    "prune": "prune {model} --params 16.21x -o {folder}/new",
    "inspect": "inspect {model}",
    "export": "export {folder}/small --to onnx",
}
RECONVENE = "-m", "reconvene"


def main() -> int:
    """Print one table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), help=f"some of {', '.join(COMMANDS)}")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.commands) - set(COMMANDS):
        parser.error(f"no {', '.join(sorted(unknown))} here. Available: {', '.join(COMMANDS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's second call reads compiled modules
    print(f"{'':24}{'import torch':>14}{'imports':>10}{'command':>10}{'times torch':>13}{'times imports':>15}")
    for name in options.models:
        for command in options.commands:
            record = measured(name, command, options.repeats)
            print(line(record), flush=True)
            about = {"repeats": options.repeats, "load": os.getloadavg()[0], **facts(ROOT)}
            put_row(options.out, {**record, **about}, same=("model", "command"))
    return 0


def measured(name: str, command: str, repeats: int) -> dict[str, Any]:
    """Seconds of the command, of ``import torch``, and of all that the network imports, in turn."""
    model, packages = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        if command == "export":
            processor_seconds(*RECONVENE, *f"prune {model} --params 16.21x -o {folder}/small".split())
        words = COMMANDS[command].format(model=model, folder=folder).split()
        turns = [
            (
                processor_seconds("-c", "import torch"),
                processor_seconds("-c", f"import {packages}"),
                processor_seconds(*RECONVENE, *words),
            )
            for _ in range(repeats + 1)
        ][1:]  # the first one compiles modules and fills the system's cache of files
    torch, imports, whole = (statistics.median(values) for values in zip(*turns, strict=True))
    return {
        "model": name,
        "command": command,
        "torch": round(torch, 3),
        "imports": round(imports, 3),
        "seconds": round(whole, 3),
        "times_torch": round(statistics.median(turn[2] / turn[0] for turn in turns), 3),
        "times_imports": round(statistics.median(turn[2] / turn[1] for turn in turns), 3),
    }


def processor_seconds(*arguments: str) -> float:
    """User and system time of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def line(record: dict[str, Any]) -> str:
    """One command of one network."""
    return (
        f"{record['command']:8} {record['model']:15}{record['torch']:>14.2f}{record['imports']:>10.2f}"
        f"{record['seconds']:>10.2f}{record['times_torch']:>13.2f}{record['times_imports']:>15.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
