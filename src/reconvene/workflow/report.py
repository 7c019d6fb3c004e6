"""The report of an artifact, from what its folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconvene import artifact
from reconvene.devices import HERE
from reconvene.errors import ArtifactError
from reconvene.pages import ReportData, write_report
from reconvene.surgery import Plan
from reconvene.tasks import DEFAULT, task_named
from reconvene.training import read_log
from reconvene.training.log import LOG_NAME
from reconvene.utils.files import write_atomic
from reconvene.utils.machine import machine, now
from reconvene.workflow.inputs import recorded_task
from reconvene.workflow.origin import DENSE, stored_variants
from reconvene.workflow.pictures import PICTURES
from reconvene.workflow.prune import BENCH, COMMAND, REPORT

RECIPE = ("lr", "schedule", "tail", "optimizer", "weight_decay", "batch_size", "augment", "seed")
"""What of a recipe of training a report names."""


def report(directory: str | Path, *, command: str | None = None) -> Path:
    """Write ``report.html`` into the folder of a pruned artifact; what was not done yet has no section in it.

    Args:
        directory: the artifact.
        command: the command line that makes it again, as the report tells it; by default that of the last report.

    Raises ArtifactError.

    >>> import tempfile
    >>> import torch
    >>> import reconvene as rc
    >>> from reconvene.models import MODELS
    >>> small = rc.prune(MODELS["resnet20"](width=0.25), torch.randn(1, 3, 32, 32), rc.Budget(params="2x"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rc.save(small, folder)
    ...     page = rc.report(folder)
    ...     page.name, page.stat().st_size > 10_000
    ('report.html', True)
    """
    folder = Path(directory)
    if command is not None:
        write_atomic(folder / COMMAND, (command + "\n").encode())
    elif (folder / COMMAND).exists():
        command = (folder / COMMAND).read_text(encoding="utf-8").strip()
    return write_report(collect(folder, command=command), folder / REPORT)


def collect(folder: Path, *, command: str | None = None) -> ReportData:
    """Everything that the folder of a pruned artifact says of itself. Raises ArtifactError."""
    stored = artifact.Artifact.open(folder)
    plan, pruning, training = stored.plan, stored.pruning, stored.training
    if plan is None:
        raise ArtifactError(f"{folder} holds a dense model: there is nothing to set beside it")
    bench = read_bench(folder)
    task = task_named(recorded_task(folder) if training is None else training.task)
    return ReportData(
        model=stored.source.address,
        costs=plan.costs,
        groups=plan.rows,
        pinned=plan.pinned,
        bits=plan.bits,
        budget=plan.budget,
        limits=plan.limits,
        measured=_measured(stored, bench),
        spread=_in_network_order(pruning.spread, plan) if pruning else {},
        training=_logs(folder),
        scores=scores(folder),
        task=task.name,
        assessment={name: task.read_assessment(values) for name, values in stored.assessment.items()},
        trained=plan.kept_weights if pruning is None else pruning.trained,
        as_cut={} if stored.as_cut is None else dict(stored.as_cut.scores),
        recipe=_recipe(training),
        preprocessing=stored.preprocessing,
        curve=stored.curve,
        safety=dict(stored.safety),
        synops=dict(stored.synops),
        bench=bench,
        pictures=_read_pictures(folder),
        exports=list(stored.exports),
        timings=dict(stored.timings.pruning),
        refused=dict(stored.refused),
        criterion=plan.criterion,
        evaluator=plan.evaluator,
        rectify=pruning.rectify if pruning else None,
        data=plan.data,
        dataset=training.dataset if training else None,
        examples=plan.examples if training is None or training.examples is None else training.examples,
        seed=plan.seed,
        notes=[*plan.remarks, *_judged_apart(folder)],
        command=command,
        versions={"reconvene": stored.written_by, **(bench["versions"] if bench else {})},
        machine=dict(machine()),
        date=now(),
    )


def _in_network_order(spread: Mapping[str, float], plan: Plan) -> dict[str, float]:
    """Ratios by layer as the model has its layers; a file keeps them by name."""
    places = {name.rpartition(".")[0]: place for place, name in enumerate(plan.shapes)}
    return dict(sorted(spread.items(), key=lambda item: places.get(item[0], len(places))))


def _measured(stored: artifact.Artifact, bench: Mapping[str, Any] | None) -> dict[str, float]:
    """Costs of the finished network, where they were taken after the plan: by a compiler, or a benchmark here."""
    measured: dict[str, float] = dict(stored.compiled)
    pruning = stored.pruning
    if bench is None or pruning is None or pruning.device not in (None, HERE):
        return measured
    wanted = ("onnxruntime", "pruned", pruning.precision or "fp32")
    for row in bench["rows"]:
        if (row["runtime"], row["variant"], row.get("precision", "fp32")) == wanted and bench["batch"] == 1:
            measured["latency"] = float(row["median"])
    return measured


def _recipe(training: artifact.Training | None) -> dict[str, Any]:
    """What a reader must know to train like this: epochs, rate, batch, ...; empty where nothing was trained."""
    if training is None:
        return {}
    asked = training.asked
    return {"epochs": training.epochs, **{name: asked[name] for name in RECIPE if asked.get(name) is not None}}


def scores(folder: Path) -> dict[str, float]:
    """The task's headline on the test images, of ``dense`` and ``pruned`` if trained. Raises ArtifactError.

    A dense network that was judged on other images than the pruned one has none: their difference says nothing. A
    pruning in steps judged both, and so did an evaluation of a network whose weights were kept, and its cut.
    """
    stored = artifact.Artifact.open(folder)
    cut = stored.as_cut
    if stored.training is None and "pruned" in stored.assessment:
        task = task_named(recorded_task(folder))
        return {name: task.read_assessment(values).score for name, values in stored.assessment.items()}
    if stored.training is None and cut is not None:
        return dict(cut.scores)
    values, curve = {name: training.score for name, training in _trainings(folder).items()}, stored.curve
    if "pruned" in values and curve is not None and curve.split == "test" and curve.dense is not None:
        values["dense"] = curve.dense
    elif stored.training is not None and cut is not None and cut.dataset == stored.training.dataset:
        values |= {name: score for name, score in cut.scores.items() if name == "dense"}
    elif _judged_apart(folder):
        del values["dense"]
    return values


def _trainings(folder: Path) -> dict[str, artifact.Training]:
    """What is recorded of the training of ``dense`` and ``pruned``, where they were trained."""
    trainings = {name: stored.training for name, stored in stored_variants(folder).items()}
    return {name: training for name, training in trainings.items() if training is not None}


def _judged_apart(folder: Path) -> list[str]:
    """What a reader must know where the dense and the pruned network were judged on different images."""
    data = {name: training.dataset for name, training in _trainings(folder).items()}
    if len(set(data.values())) < 2:
        return []
    used = "" if artifact.Artifact.open(folder).curve is None else "; the steps compare both on the same images"
    return [f"the dense network was trained on {data['dense']}, the pruned one on {data['pruned']}{used}"]


def read_bench(folder: Path) -> dict[str, Any] | None:
    """The contents of ``bench.json``; None before the first benchmark. Raises ArtifactError where it is damaged."""
    bench = _read_json(folder / BENCH)
    if bench is not None and "rows" not in bench:
        raise ArtifactError(f"{folder / BENCH} is not a benchmark of ours. Remove it, or run the benchmark again")
    for row in bench["rows"] if bench is not None else ():
        if "accuracy" in row:  # as releases wrote it that knew classification alone
            row |= {"quality": row.pop("accuracy"), "measure": DEFAULT.headline}
    return bench


def _read_pictures(folder: Path) -> list[dict[str, str]]:
    """The rows of ``pictures.json``; none without it. Raises ArtifactError where it is damaged."""
    rows = _read_content(folder / PICTURES)
    if rows is None:
        return []
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ArtifactError(f"{folder / PICTURES} holds no pictures of ours. Remove it, or evaluate again")
    return [{str(heading): str(picture) for heading, picture in row.items()} for row in rows]


def _read_json(path: Path) -> dict[str, Any] | None:
    """The contents of a JSON file of the folder; None without the file. Raises ArtifactError where it is damaged."""
    content = _read_content(path)
    if content is None:
        return None
    if not isinstance(content, Mapping):
        raise ArtifactError(f"{path} holds no table of ours. Remove it; what it held can be measured again")
    return dict(content)


def _read_content(path: Path) -> Any:
    """What a JSON file holds; None without the file. Raises ArtifactError where it is damaged."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}. Remove it; what it held can be measured again") from error


def _logs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    places = {"dense": folder / DENSE, "pruned": folder}
    return {name: read_log(path) for name, path in places.items() if (path / LOG_NAME).exists()}
