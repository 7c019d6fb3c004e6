"""One piece of a fleet's work: a plan becomes an artifact, trained and exported if asked.

Runs in a process of its own, here or on another machine, and hands back the files of the artifact. A job holds ``key``,
``place``, ``source``, ``plan``, rectify, seed, data, limit, train, export, precision, chip and
allow_import; the task where it is another than usual.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconvene import artifact, rectifier, workflow
from reconvene.data import Dataset, load_data
from reconvene.deploy import Limits
from reconvene.models import ModelSource, example_inputs
from reconvene.surgery import Plan
from reconvene.tasks import DEFAULT
from reconvene.training import TrainConfig
from reconvene.utils.executors import FileContents, Job

_UNTRAINED = Limits(agreement=0.0, accuracy_drop=1.0)
"""What is not trained has no answers to agree on."""


def job_key(request: Mapping[str, Any]) -> str:
    """Sixteen hex digits that name everything that decides a result, in JSON types."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]


def execute_job(job: Job, work: str) -> FileContents:
    """Make the artifact of a job in a folder under ``work``, and return its files.

    The folder stays until the result has landed, so that training that was stopped goes on from its checkpoint.
    """
    folder = Path(work) / job["key"]
    source, plan = ModelSource.from_dict(job["source"]), Plan.from_dict(job["plan"])
    allow, seed = bool(job["allow_import"]), int(job["seed"])
    assert source.input_shape is not None, "resolve() fills it in"
    if not (folder / artifact.MANIFEST).exists():
        inputs = example_inputs(source.input_shape, seed=seed)
        small = plan.apply(source.build(allow_import=allow))
        report = rectifier.rectify(small, plan, inputs, how=job["rectify"], seed=seed)
        ratios = {row.layer: row.ratio for row in report.rows if row.ratio is not None}
        pruning = {"rectify": job["rectify"], "criterion": plan.criterion, "budget": plan.budget, "spread": ratios}
        artifact.save(small, folder, plan=plan, source=source, extra={"pruning": pruning})
    dataset = None
    if job["train"]:
        dataset = _dataset(job, source)
        recipe = {name: value for name, value in job["train"].items() if name != "epochs"}
        config = TrainConfig(seed=seed, **recipe)
        workflow.train(folder, dataset, epochs=job["train"]["epochs"], config=config, allow_import=allow)
    if job["export"]:
        int8 = None
        if job["precision"] == "int8":
            dataset = dataset or _dataset(job, source)
            limits = Limits() if job["train"] else _UNTRAINED
            int8 = workflow.Int8(limits=limits, chip=job["chip"])
        workflow.export_artifact(
            folder, formats=job["export"], int8=int8, dataset=dataset, seed=seed, allow_import=allow
        )
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _dataset(job: Job, source: ModelSource) -> Dataset:
    task = job.get("task", DEFAULT.name)
    return load_data(job["data"], task=task, input_shape=source.input_shape, limit=job["limit"])
