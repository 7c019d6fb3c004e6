"""Is int8 better after quantisation-aware training? Three ways to spend the last epochs of a pruned network, in turn.

python benchmarks/qat.py                                  # every network and seed that is not there yet
python benchmarks/qat.py --only mobilenetv2 --seeds 1
python benchmarks/pages qat                               # writes the table of the docs

Every line of ``results/qat.jsonl`` is one network and seed, on a part of CIFAR-10. The network is pruned and trained by
the default recipe; the rest starts from there: nothing more, some epochs in float32, or as many quantisation-aware, the
two by the same recipe on the same batches. Each is exported in int8, calibrated on the same 256 training images, and
run in its runtime. The arm "float32" shows what more epochs do by themselves.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rows import add_row, read_rows
from torch import nn

import reconvene as rc
from reconvene.data import Dataset, calibration, load_data, test_batches
from reconvene.deploy import FORMATS, QuantisationAware, export
from reconvene.deploy.fidelity import fidelity
from reconvene.models import ModelSource
from reconvene.training import TrainConfig, evaluate_split, train_model
from reconvene.workflow.deploy import calibration_of
from reconvene.workflow.qat import QAT_CONFIG, QAT_EPOCHS

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "qat.jsonl"
SHAPE = (3, 32, 32)
NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "resnet20": ({}, "4x"),
    "mobilenetv2": ({"width": 0.5}, "4x"),
}
"""Arguments, and how many times fewer parameters."""
FORMATS_ASKED = ("onnx", "executorch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(HERE.parents[1] / "shared" / "data" / "cifar10"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", action="append", choices=sorted(NETWORKS))
    given = parser.parse_args()
    if not Path(given.data).is_dir():
        print(f"no CIFAR-10 at {given.data}: nothing is measured")
        return
    torch.set_num_threads(1)
    dataset = load_data(given.data, limit=given.limit)
    for seed in range(given.seeds):
        for name in given.only or NETWORKS:
            asked = {"network": name, "seed": seed, "epochs": given.epochs, "data": str(dataset)}
            if not any({key: row[key] for key in asked} == asked for row in read_rows(RESULTS)):
                row = {**asked, "more_epochs": QAT_EPOCHS, "arms": measured(name, dataset, seed, given.epochs)}
                add_row(RESULTS, row)
                print(json.dumps(row), flush=True)


def measured(name: str, dataset: Dataset, seed: int, epochs: int) -> dict[str, Any]:
    """Every way of spending the last epochs: accuracy in float32, and what each runtime's int8 keeps of it."""
    arguments, smaller = NETWORKS[name]
    dense = ModelSource(name, {"num_classes": 10, **arguments}, SHAPE, seed).build()
    small = rc.prune(dense, next(iter(calibration(dataset, 10, seed=seed)))[0], rc.Budget(params=smaller), seed=seed)
    more = {"epochs": QAT_EPOCHS, "config": replace(QAT_CONFIG, seed=seed, precision="fp32")}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train_model(small, dataset, epochs=epochs, directory=folder / "base", config=TrainConfig(seed=seed))
        found["nothing more"] = exported(small, dataset, folder / "base", seed)
        longer, aware = copy.deepcopy(small), copy.deepcopy(small)
        train_model(longer, dataset, directory=folder / "longer", **more)
        found["float32"] = exported(longer, dataset, folder / "longer", seed)
        result = train_model(aware, dataset, directory=folder / "aware", quantising=QuantisationAware(), **more)
        found["quantisation-aware"] = exported(aware, dataset, folder / "aware", seed)
        found["quantisation-aware"]["rounded"] = result.score
        learned = exported(aware, dataset, folder / "aware", seed, learned=result.ranges)
        found["quantisation-aware"]["executorch, learned"] = learned["executorch"]
    return found


def exported(
    model: nn.Module, dataset: Dataset, folder: Path, seed: int, learned: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Test accuracy in float32 in PyTorch; accuracy, agreement with float32 and SQNR of int8 in each runtime."""
    model.eval()
    found: dict[str, Any] = {"float32": evaluate_split(model, dataset).accuracy}
    for kind in FORMATS_ASKED if learned is None else ["executorch"]:
        file = export(
            model,
            folder,
            format=kind,
            example_inputs=torch.zeros(1, *SHAPE),
            quantize="int8",
            calibration=calibration_of(dataset, 256, seed=seed),
            learned=learned,
            verify=False,
        ).path
        with FORMATS[kind].open(file, 1) as session:
            kept = fidelity(model, session, test_batches(dataset), runtime=kind, samples=len(dataset.test))
        found[kind] = {"accuracy": kept.quality, "agreement": kept.agreement, "sqnr": kept.sqnr}
    return found


if __name__ == "__main__":
    main()
