"""How near the prediction of activation memory is to what runtimes plan.

``python benchmarks/memory.py MODEL ...`` adds a JSON line a model, plan and precision to
``benchmarks/results/memory.jsonl``: the dense network, and random plans of it (``--plans 2``). ExecuTorch in int8 needs
the extra ``cortex-m``; without it that line is left out.
"""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import reconvene as rc
from reconvene import devices, models
from reconvene.deploy import FORMATS
from reconvene.deploy.memory import planned_memory
from reconvene.errors import StructureError
from reconvene.planning.measuring.networks import cut_groups
from reconvene.structure import analyse
from reconvene.structure.pruned_sizes import settle
from reconvene.utils.machine import machine, now

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "memory.jsonl"
ASKED = [("executorch", "fp32"), ("onnx", "fp32"), ("onnx", "int8"), ("executorch", "int8")]


def networks(model: nn.Module, inputs: Any, plans: int) -> list[nn.Module]:
    """The dense network, and so many cut to random widths."""
    structure = analyse(model, inputs)
    rng, found = np.random.default_rng(0), [model]
    while len(found) <= plans:
        want = np.maximum(1, (structure.widths * rng.uniform(0.2, 1, len(structure.widths))).astype(np.int64) // 8 * 8)
        widths = settle(structure.balances, want, structure.widths)
        with suppress(StructureError):
            found.append(cut_groups(model, inputs, structure, widths).eval())
    return found


def look(name: str, plans: int) -> None:
    """Predict and look up every network of a model."""
    source = models.resolve_address(name, {})
    model, inputs = source.build().eval(), models.example_inputs(source.input_shape)
    for number, network in enumerate(networks(model, inputs, plans)):
        structure = analyse(network, inputs, trial=False)
        for plan, precision in ASKED:
            way = FORMATS[plan].holds.get(precision)
            predicted = devices.Held(structure, way).bytes(structure.widths) if way else None
            if predicted is None:  # ExecuTorch in float32 holds what PyTorch holds
                predicted = float(rc.measure(network, inputs, latency=False).peak_memory)
            row: dict[str, Any] = {"model": name, "network": number, "plan": plan, "precision": precision}
            try:
                found = planned_memory(network, inputs, plan=plan, precision=precision)
            except rc.ReconveneError as error:
                print(f"left out: {plan} {precision}: {error}")
                continue
            row |= {"predicted": predicted, "planned": found}
            print(row, flush=True)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**row, "machine": machine(), "date": now()}) + "\n")


def main() -> None:
    """Look at the models that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--plans", type=int, default=1)
    options = parser.parse_args()
    for name in options.models:
        look(name, options.plans)


if __name__ == "__main__":
    main()
