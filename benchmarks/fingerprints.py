"""Fingerprints of plans, weights and artifacts of forty architectures tell whether a change of the code changes a byte.

    python benchmarks/fingerprints.py            # writes benchmarks/results/fingerprints.json
    python benchmarks/fingerprints.py --check    # compares with it, and names every field that differs

Each architecture is pruned to a quarter and to a sixteenth of its parameters with two seeds. Every field of a plan and
every section of a manifest has a fingerprint of its own, so that a change that is meant can be told from one that is
not.

Kernels of AVX-512 add in another order than those of AVX2, and scaled weights differ in the last bit. The script asks
PyTorch and oneDNN for AVX2, so that the same fingerprints hold on both kinds of machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.update(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2")  # read when PyTorch is loaded

import torch
from architectures import all_architectures

import reconvene as rc
from reconvene.errors import ReconveneError
from reconvene.surgery import Plan

RESULTS = Path(__file__).parent / "results" / "fingerprints.json"
BUDGETS, SEEDS = ("4x", "16x"), (0, 1)
TORCHVISION = (
    *("alexnet", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("resnet18", "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "convnext_tiny", "vgg11_bn"),
)
"""Beside the small networks of our own, which hold one mechanism each."""


def main() -> int:
    """Write the fingerprints, or hold them against those that are there; the exit code is 1 if any differs."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="compare with what is there, and write nothing")
    options.add_argument("--only", default="", help="architectures with this in their name")
    arguments = options.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    prints = {}
    for name in chosen():
        if arguments.only in name:
            prints[name] = fingerprints(name)
            print(name, "the same" if prints[name] == known.get(name) else "differs", flush=True)
    if not arguments.check:
        RESULTS.write_text(json.dumps({**(known if arguments.only else {}), **prints}, indent=1, sort_keys=True) + "\n")
        return 0
    lines = [line for name, values in prints.items() for line in differences(name, values, known.get(name, {}))]
    print("\n".join(lines) or f"all {len(prints)} architectures are byte for byte what they were")
    return 1 if lines else 0


def chosen() -> list[str]:
    """The names of the architectures."""
    own = [name for name in all_architectures() if name.startswith("own/")]
    return own + [f"torchvision/{name}" for name in TORCHVISION]


def fingerprints(name: str) -> dict[str, Any]:
    """Fingerprints by budget, seed and field."""
    model, inputs = all_architectures()[name].build()
    out: dict[str, Any] = {}
    for budget in BUDGETS:
        for seed in SEEDS:
            key = f"params {budget}, seed {seed}"
            try:
                small = rc.prune(model, inputs, rc.Budget(params=budget), seed=seed)
            except ReconveneError as error:
                out[key] = {"error": type(error).__name__}
                continue
            plan = small.reconvene_plan
            assert isinstance(plan, Plan)
            out[key] = {f"plan.{field}": digest(value) for field, value in plan.to_dict().items()}
            out[key] |= saved(small, name)
    return out


def saved(small: torch.nn.Module, name: str) -> dict[str, str]:
    """Fingerprints of the artifact's files, the manifest's section by section."""
    source = {"address": "architectures:dense", "args": {"name": name}}
    with tempfile.TemporaryDirectory() as folder:
        rc.save(small, folder, source=source)
        manifest = json.loads((Path(folder) / "reconvene.json").read_text())
        weights = (Path(folder) / "model.safetensors").read_bytes()
    manifest.pop("libraries", None)
    return {f"manifest.{section}": digest(value) for section, value in manifest.items()} | {
        "weights": hashlib.sha256(weights).hexdigest()[:16]
    }


def digest(value: Any) -> str:
    """Sixteen hex digits of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def differences(name: str, values: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """One line for every field that is not what it was."""
    return [
        f"{name}, {key}: {field}"
        for key in sorted(values.keys() | known.keys())
        for field in sorted(values.get(key, {}).keys() | known.get(key, {}).keys())
        if values.get(key, {}).get(field) != known.get(key, {}).get(field)
    ]


if __name__ == "__main__":
    sys.exit(main())
