"""One piece of a fleet's work: a plan becomes an artifact, trained and exported if asked.

Runs in a process of its own, here or on another machine, and hands back the files of the artifact. A job holds ``key``,
``place``, ``source``, ``plan``, ``settings`` (what the artifact says of its pruning), rectify, seed, data, limit,
train, export, precision, chip and allow_import; the task, ``int8`` and ``keep`` where they are other than usual;
digests of data that lie in files (``data_sha256``) and of a model's own code (``code_sha256``); of a trained network
``trained``, ``base`` or ``weights``, and the mean and std of its images where the data do not say them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import nn

from reconvene import artifact, rectifier, workflow
from reconvene.data import Dataset, Normalisation, files_sha256
from reconvene.data.calibration import TRAINED_SAMPLES
from reconvene.errors import DataError
from reconvene.fleet.options import Int8Settings
from reconvene.models import ModelSource, example_inputs
from reconvene.surgery import Plan
from reconvene.tasks import DEFAULT
from reconvene.training import TrainConfig
from reconvene.utils.executors import FileContents, Job
from reconvene.utils.plugins import load_plugins
from reconvene.workflow.evaluate import judge_cut
from reconvene.workflow.inputs import DataChoice, dataset_for
from reconvene.workflow.origin import DENSE, Origin
from reconvene.workflow.prune import Samples


def job_key(request: Mapping[str, Any]) -> str:
    """Sixteen hex digits that name everything that decides a result, in JSON types."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]


def execute_job(job: Job, work: str) -> FileContents:
    """Make the artifact of a job in a folder under ``work``, and return its files.

    The folder stays until the result has landed, so that training that was stopped goes on from its checkpoint.
    """
    load_plugins()  # a worker has none yet
    folder = Path(work) / job["key"]
    origin, allow = _origin_of(job), bool(job["allow_import"])
    dataset = cache(partial(_dataset, job, origin))
    if job.get("trained"):
        if not (folder / DENSE / artifact.MANIFEST).exists():  # the last thing that is saved
            _cut_trained(job, folder, origin, dataset())
        if artifact.Artifact.open(folder).as_cut is None:
            judge_cut(folder, dataset(), allow_import=allow)
    elif not (folder / artifact.MANIFEST).exists():
        _cut_untrained(job, folder, origin)
    if job["train"]:
        workflow.train(
            folder, dataset(), epochs=job["train"]["epochs"], config=_recipe(job, folder), allow_import=allow
        )
    if job["export"]:
        int8 = _int8(job) if job["precision"] == "int8" else None
        calibration = None if int8 is None else dataset()
        workflow.export_artifact(
            folder, formats=job["export"], int8=int8, dataset=calibration, seed=int(job["seed"]), allow_import=allow
        )
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _origin_of(job: Job) -> Origin:
    base, weights = (Path(job[name]) if job.get(name) else None for name in ("base", "weights"))
    return Origin(ModelSource.from_dict(job["source"]), base, weights, _normalisation(job))


def _normalisation(job: Job) -> Normalisation | None:
    return Normalisation(tuple(job["mean"]), tuple(job["std"])) if job.get("mean") and job.get("std") else None


def _cut_untrained(job: Job, folder: Path, origin: Origin) -> None:
    """The touched layers are drawn anew, as the job says."""
    plan = Plan.from_dict(job["plan"])
    small = plan.apply(origin.build(allow_import=bool(job["allow_import"])))
    record = _rectified(job, small, plan, origin)
    artifact.save(small, folder, plan=plan, source=origin.source, extra={"pruning": record})


def _cut_trained(job: Job, folder: Path, origin: Origin, dataset: Dataset) -> None:
    """The weights stay, and what is left is repaired on images; the dense network is kept beside it."""
    plan, model = Plan.from_dict(job["plan"]), origin.build(allow_import=bool(job["allow_import"]))
    small = plan.apply(model)
    samples = Samples(lambda: dataset, seed=int(job["seed"]), most=TRAINED_SAMPLES)
    origin.save_cut(small, model, folder, plan, _rectified(job, small, plan, origin, model, samples))


def _rectified(
    job: Job, small: nn.Module, plan: Plan, origin: Origin, model: nn.Module | None = None, data: Samples | None = None
) -> artifact.PruningRecord:
    """Rectify the network in place; what the artifact says of the pruning."""
    seed = int(job["seed"])
    assert origin.source.input_shape is not None, "resolve_address() fills it in"
    inputs = example_inputs(origin.source.input_shape, seed=seed)
    report = rectifier.rectify(small, plan, inputs, how=job["rectify"], seed=seed, model=model, data=data)
    spread = {row.layer: row.ratio for row in report.rows if row.ratio is not None}
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in job["settings"].items()
    }
    return artifact.PruningRecord(**settings, budget=plan.budget, spread=spread)


def _recipe(job: Job, folder: Path) -> TrainConfig:
    """The recipe of the file; what it does not say is as usual for weights that were kept, or drawn."""
    changes = {name: value for name, value in job["train"].items() if name != "epochs"}
    usual = workflow.usual_recipe(folder, job["train"]["epochs"], own_rate="lr" in changes or "schedule" in changes)
    return replace(usual, seed=int(job["seed"]), **changes)


def _int8(job: Job) -> workflow.Int8:
    asked = Int8Settings(**job.get("int8", {}))
    limits = asked.limits
    if not (job["train"] or job.get("trained")):  # what is not trained has no answers to agree on
        limits = replace(limits, agreement=0.0, accuracy_drop=1.0)
    return workflow.Int8(
        limits=limits, keep_fp32=tuple(asked.keep_fp32), samples=asked.calibration_samples, chip=job["chip"]
    )


def _dataset(job: Job, origin: Origin) -> Dataset:
    """The images, which must be those that the fleet was planned for. Raises DataError."""
    if job.get("data_sha256") not in (None, files_sha256(job["data"])):
        raise DataError(
            f"{job['data']} holds other files here than where the fleet was planned. Copy the data to this machine "
            "anew, or run the fleet again where they have changed"
        )
    known = origin.normalisation
    mean, std = (None, None) if known is None else (known.mean, known.std)
    task = job.get("task", DEFAULT.name)
    choice = DataChoice(task, origin.source.input_shape, job["limit"], mean=mean, std=std)
    return dataset_for(origin.base, job["data"], choice)
