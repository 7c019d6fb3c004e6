"""One run, in a process of its own: ``python -m reconvene.experiments.worker FOLDER`` does what FOLDER/run.json says.

It leaves ``result.json`` when it is finished. Stopped before, it goes on from its checkpoint when started again.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from reconvene.costs import Budget, Cost, listed_costs
from reconvene.data import Dataset, load_data
from reconvene.deploy import Measurement, measure, time_variants
from reconvene.deploy.planned import as_file_computes
from reconvene.devices.latency_cost import DeviceLatency
from reconvene.errors import ExperimentError, ReconveneError
from reconvene.experiments.config import Run
from reconvene.experiments.context import PreparedRun, Setting
from reconvene.experiments.masked import take_off
from reconvene.experiments.methods import arm_named
from reconvene.experiments.results import Record, source_commit
from reconvene.models import ModelSource, example_inputs, resolve_address
from reconvene.planning.session import Planner
from reconvene.planning.target import resolve_profile
from reconvene.tasks import Targets
from reconvene.training import TrainConfig, TrainResult, train_model
from reconvene.training.assess import assess, predict, test_synops
from reconvene.training.machine import choose_device, describe_machine, library_versions
from reconvene.utils.executors import end_with
from reconvene.utils.files import write_atomic
from reconvene.utils.machine import now
from reconvene.utils.plugins import load_plugins

RUN, RESULT, ERROR, LOCK = "run.json", "result.json", "error.txt", ".lock"


def execute_run(run: Run, folder: Path, *, data: str) -> Record:
    """Do one run in ``folder`` and return its record. ``data`` says where the run's data set lies.

    Raises ReconveneError.
    """
    start = time.perf_counter()
    dataset = load_data(data, task=run.task, input_shape=run.input, limit=run.limit)
    source = _source(run, dataset)
    config = TrainConfig(seed=run.seed, **run.train)
    setting = _setting(run, source, dataset, config, folder)
    dense = source.build()
    began = time.process_time()
    prepared = arm_named(run.arm).prepare(setting)
    search_cpu = time.process_time() - began
    costs = measure(dense if prepared.masked else prepared.model, setting.inputs, latency=False)
    result = _train(prepared, setting)
    model = take_off(prepared.model)
    if prepared.masked:
        costs = replace(costs, params=sum(int(parameter.count_nonzero()) for parameter in model.parameters()))
    judged = as_file_computes(model, dataset, seed=run.seed)
    return {
        "key": run.key,
        "run": asdict(run),
        "label": run.label,
        "dataset": str(dataset),
        "dataset_sha256": dataset.sha256,
        **_costs(costs),
        "dense": _costs(measure(dense, setting.inputs, latency=False)),
        "widths": {row.name: row.width for row in prepared.plan.rows} if prepared.plan else None,
        "search": {"seconds": sum(prepared.seconds.values()), "cpu_seconds": search_cpu, "steps": prepared.seconds},
        "facts": prepared.facts,
        **_training(result, prepared, costs.macs, dataset),
        "assessment": _assessment(judged, dataset) if run.corruptions else None,
        "synops": None if (counted := test_synops(judged, dataset)) is None else counted.to_dict(),
        "latency": _latency(dense, model, setting.inputs) if run.latency else None,
        "commit": source_commit(),
        "libraries": library_versions(),
        "machine": describe_machine(choose_device(config.device)),
        "threads": torch.get_num_threads(),
        "seconds": time.perf_counter() - start,
        "date": now(),
    }


def _source(run: Run, dataset: Dataset) -> ModelSource:
    shape = run.input or dataset.shape
    source = resolve_address(run.model, run.args, input_shape=shape, seed=run.seed).with_classes(dataset.outputs)
    dataset.require(input_shape=shape)
    return source


def _setting(run: Run, source: ModelSource, dataset: Dataset, config: TrainConfig, folder: Path) -> Setting:
    assert source.input_shape is not None, "resolve_address() fills it in"
    model, inputs = source.build(), example_inputs(source.input_shape, seed=run.seed)
    return Setting(
        model=model,
        inputs=inputs,
        dataset=dataset,
        budget=Budget(**run.budget) if run.budget else None,
        options=run.options,
        seed=run.seed,
        epochs=run.epochs,
        config=config,
        round_to=run.round_to,
        folder=folder,
        costs=_costs_on_device(run, model, inputs) if "latency" in run.budget else None,
        source=source.to_dict(),
    )


def _costs_on_device(run: Run, model: nn.Module, inputs: torch.Tensor) -> dict[str, Cost]:
    """The listed costs, and latency as predicted for the run's device.

    On this machine layers are measured when they are first met, and kept.
    """
    profile = resolve_profile(Planner(model, inputs, seed=run.seed), run.device)
    return {**listed_costs(), "latency": DeviceLatency(profile)}


def _train(prepared: PreparedRun, setting: Setting) -> TrainResult:
    """The training that the arm leaves to do, by its own recipe where it has one."""
    return train_model(
        prepared.model,
        setting.dataset,
        epochs=prepared.epochs,
        directory=setting.folder / "train",
        config=prepared.config or setting.config,
        distillation=prepared.distillation,
        quantising=prepared.quantising,
    )


def _costs(measured: Measurement) -> Record:
    return {name: getattr(measured, name) for name in ("params", "macs", "size", "peak_memory")}


def _training(result: TrainResult, prepared: PreparedRun, macs: int, dataset: Dataset) -> Record:
    """What training gave and took; an arm that trained before it pruned paid for that too."""
    header, epochs = result.records[0], result.records[1:]
    earlier, test = prepared.earlier, result.rate_test
    # Forward, and backward by inputs and by weights: three times the multiply-accumulates of a forward pass.
    examples = len(dataset.train) * prepared.epochs
    examples += 0 if test is None else len(test.rates) * header["config"]["batch_size"]
    work = 3 * (macs * examples + len(dataset.train) * earlier.get("macs", 0.0) * earlier.get("epochs", 0.0))
    return {
        "initial_sha256": header["weights_sha256"],
        "recipe": header["config"],
        "rate_test": None if test is None else {"steps": len(test.rates), "seconds": test.seconds},
        "task": dataset.task.name,
        dataset.task.headline: result.score,
        "loss": result.evaluation.loss,
        "train_loss": epochs[-1]["train_loss"],
        "per_class": result.evaluation.parts,
        "curve": [epoch[f"test_{dataset.task.headline}"] for epoch in epochs],
        "training": {
            "seconds": result.seconds + earlier.get("seconds", 0.0) + (0.0 if test is None else test.seconds),
            "seconds_per_epoch": result.seconds / prepared.epochs,
            "macs": work,
            "earlier": earlier,
        },
    }


def _assessment(model: nn.Module, dataset: Dataset) -> Record:
    """Beyond the headline. Answers of a classifier are kept, to tell later how many are those of the dense network."""
    assessment = assess(model, dataset, corruptions=True).to_dict()
    if dataset.task.targets is not Targets.LABELS:
        return assessment
    answers = predict(model, dataset)[0].numpy().astype(np.uint16)
    return {**assessment, "answers": base64.b64encode(zlib.compress(answers.tobytes(), 9)).decode()}


def _latency(dense: nn.Module, model: nn.Module, inputs: torch.Tensor) -> Record:
    """Seconds in ONNX Runtime, the dense network and this one taking turns."""
    timings = time_variants({"dense": dense, "this": model.cpu()}, inputs, runtimes=("onnxruntime",), repeats=20)
    base, pruned = (timings.row("onnxruntime", name) for name in ("dense", "this"))
    return {"seconds": pruned.median, "dense": base.median, "speedup": pruned.speedup}


def main(arguments: list[str]) -> int:
    """Run what ``FOLDER/run.json`` says, and leave ``result.json`` or ``error.txt`` beside it.

    A second argument is the process that asked: where that ends, however it ends, so does this. Until then no other
    touches the folder.
    """
    folder = Path(arguments[0])
    if len(arguments) > 1:
        end_with(int(arguments[1]))
    with FileLock(folder / LOCK):
        return _main(folder)


def _main(folder: Path) -> int:
    request: Mapping[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    load_plugins()
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    try:
        record = execute_run(Run.from_dict(request["run"]), folder, data=request["data"])
    except ReconveneError as error:
        write_atomic(folder / ERROR, f"{type(error).__name__}: {error}\n".encode(), error=ExperimentError)
        return 1
    write_atomic(folder / RESULT, json.dumps(record, allow_nan=False).encode(), error=ExperimentError)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
