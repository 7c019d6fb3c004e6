"""Pruning a trained artifact in steps: cut, repaired and tuned in turn; stopped at any moment, it goes on where it was.

Each step is an artifact in ``DIR/steps``: what is there is done. The schedule stands beside them, so that a budget on a
measured latency means the same after an interruption. The last step becomes ``DIR`` in one commit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from reconvene import artifact
from reconvene.artifact.curve import PruningCurve, StepRecord
from reconvene.artifact.folder import commit_files
from reconvene.artifact.manifest import changed_manifest
from reconvene.costs import Budget
from reconvene.data import Dataset, Normalisation
from reconvene.data.calibration import TRAINED_SAMPLES
from reconvene.data.trial import try_model
from reconvene.deploy.planned import as_file_computes
from reconvene.errors import ArtifactError, TrainingError
from reconvene.models import ModelSource, example_inputs
from reconvene.planning.iterative import plan_of, prune_step
from reconvene.planning.options import Options
from reconvene.planning.schedule import PruningSchedule
from reconvene.surgery import Plan
from reconvene.training import TrainConfig, evaluate_split
from reconvene.training.checkpoint import sha256
from reconvene.training.log import LOG_NAME
from reconvene.utils.files import PENDING, write_atomic
from reconvene.utils.locks import alone_in
from reconvene.utils.progress import note, stage
from reconvene.workflow.inputs import preparation
from reconvene.workflow.origin import DENSE, Origin
from reconvene.workflow.pictures import PICTURES, draw_predictions, write_pictures
from reconvene.workflow.prune import (
    Pruning,
    Samples,
    record_of,
    require_replaceable,
    set_aside,
)
from reconvene.workflow.train import Lesson, recipe_of, train

STEPS, ASKED = "steps", "asked.json"


@dataclass(frozen=True)
class Tuned:
    """How an artifact is pruned in steps.

    Attributes:
        steps: how many cuts.
        epochs: of tuning after each of them; with 0 the network is only repaired.
        config: the recipe; ``tail`` is set by ``rewound``.
        lesson: how much is learned from the dense network; ``teacher`` is not read, since it is that network.
        pace: a name in ``reconvene.planning.schedule.PACES``.
        floor: of the task's headline on the validation images, or on the test images where none are held out: a step
            that does not reach it is the last, and the result is the step before it.
    """

    steps: int = 5
    epochs: int = 2
    config: TrainConfig = field(default_factory=TrainConfig)
    lesson: Lesson = field(default_factory=Lesson)
    pace: str = "geometric"
    floor: float | None = None


def prune_in_steps(
    source: ModelSource,
    directory: str | Path,
    *,
    budget: Budget,
    tuned: Tuned,
    dataset: Dataset,
    pruning: Pruning,
    base: Path | None = None,
    weights: Path | None = None,
    normalisation: Normalisation | None = None,
    overwrite: bool = False,
    allow_import: bool = False,
) -> Plan:
    """Prune a trained network to ``budget`` in steps, tune it after each on ``dataset``, and save it as an artifact.

    A run that was stopped goes on when called again with the same arguments, to the same bytes; a finished one returns
    its plan at once. The dense network is kept in ``DIR/dense``. Args as for ``prune``.

    Raises BudgetError, TrainingError (also where the first step does not reach the floor), and the errors of ``prune``.
    """
    folder = Path(directory)
    pruning.check()
    run = _Run(source, folder, budget, tuned, dataset, pruning, allow_import)
    origin = Origin(source, base, weights, normalisation)
    origin.require_other_folder(folder)
    with stage(f"building {source.address}"):
        model = origin.build(allow_import=allow_import)
    if base is not None:
        preparation(artifact.Artifact.open(base), dataset)
    try_model(model, dataset)
    asked = run.asked(model)
    with alone_in(folder, error=ArtifactError):
        if not run.is_finished(asked):
            require_replaceable(folder, overwrite=overwrite)
            schedule = run.begin(asked, model, origin, overwrite=overwrite)
            run.finish(asked, run.all_steps(model, schedule))
        run.move_results()
    plan = artifact.read_plan(folder)
    assert plan is not None, "saved above"
    return plan


@dataclass(frozen=True)
class _Run:
    """One pruning in steps."""

    source: ModelSource
    folder: Path
    budget: Budget
    tuned: Tuned
    dataset: Dataset
    pruning: Pruning
    allow_import: bool

    @property
    def work(self) -> Path:
        """Where the steps lie until the last is done."""
        return self.folder / STEPS

    def asked(self, model: nn.Module) -> dict[str, Any]:
        """What makes a run this one, in JSON types."""
        tuned = asdict(replace(self.tuned, lesson=replace(self.tuned.lesson, teacher=None)))
        del tuned["config"]
        values = {
            "source": self.source.to_dict(),
            "weights": sha256(model.state_dict()),
            "pruning": asdict(record_of(self.pruning, self.budget)),
            "recipe": recipe_of(self.dataset, self.tuned.epochs, self.tuned.config),
            **tuned,
        }
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def is_finished(self, asked: Mapping[str, Any]) -> bool:
        """Whether the folder holds what this run ends with."""
        if not (self.folder / artifact.MANIFEST).exists():
            return False
        return artifact.Artifact.open(self.folder).pruned_in_steps == asked

    def _require_own_steps(self) -> None:
        """Raise ArtifactError where the folder of steps holds anything that no run of steps writes."""
        names = [path.name.removesuffix(PENDING) for path in self.work.iterdir()]
        if foreign := [name for name in names if name not in (ASKED, DENSE) and not name.isdecimal()]:
            raise ArtifactError(
                f"{self.work} holds {foreign[0]}, which no pruning in steps wrote. Choose another folder (-o)"
            )

    def begin(self, asked: dict[str, Any], model: nn.Module, origin: Origin, *, overwrite: bool) -> PruningSchedule:
        """The schedule of an earlier call; else write down a new one, and the dense network. Raises ArtifactError."""
        path = self.work / ASKED
        if path.exists():
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["asked"] == asked:
                return PruningSchedule.from_dict(values["schedule"])
            if not overwrite:
                raise ArtifactError(
                    f"{self.work} holds the steps of an unfinished pruning that was asked for otherwise. Repeat that "
                    "command, choose another folder (-o), or --overwrite it"
                )
        if self.work.exists():
            self._require_own_steps()
            shutil.rmtree(self.work)
        self.work.mkdir(parents=True)
        origin.save_dense(model, self.work / DENSE)
        with stage(f"planning {self.tuned.steps} steps to {self.budget}"):
            schedule = PruningSchedule.of(
                model,
                self._inputs,
                self.budget,
                self._options,
                steps=self.tuned.steps,
                pace=self.tuned.pace,
            )
        write_atomic(path, json.dumps({"asked": asked, "schedule": schedule.to_dict()}).encode())
        return schedule

    @property
    def _inputs(self) -> Any:
        assert self.source.input_shape is not None, "resolve_address() fills it in"
        return example_inputs(self.source.input_shape, seed=self.pruning.seed)

    @property
    def _options(self) -> Options:
        samples = Samples(lambda: self.dataset, seed=self.pruning.seed, most=TRAINED_SAMPLES)
        return self.pruning.options(samples, self.dataset.task)

    def all_steps(self, model: nn.Module, schedule: PruningSchedule) -> PruningCurve:
        """Do the steps that are not done; how all of them fared."""
        task = self.dataset.task
        records: list[StepRecord] = []
        best = 0
        for step in range(1, schedule.steps + 1):
            record = self._step(model, schedule, step)
            records.append(record)
            score, floor = record.tuned or 0.0, self.tuned.floor
            if floor is not None and not (score >= floor if task.larger_is_better else score <= floor):
                note(f"step {step} does not reach the floor: {task.show(score)}, and not {task.show(floor)}")
                break
            best = step
        dense = artifact.load(self.work / DENSE, allow_import=self.allow_import)
        return PruningCurve(
            tuple(records),
            best,
            task.headline,
            self._score(dense),
            self.tuned.floor,
            self.dataset.choosing,
            task.larger_is_better,
        )

    def _score(self, network: nn.Module) -> float:
        """The task's headline on the split that choices are made by, with the bits of the network's plan."""
        rounded = as_file_computes(network, self.dataset, seed=self.pruning.seed)
        return evaluate_split(rounded, self.dataset, split=self.dataset.choosing).score

    def _step(self, model: nn.Module, schedule: PruningSchedule, step: int) -> StepRecord:
        """One step, unless it is done."""
        folder = self.work / str(step)
        if not (folder / artifact.MANIFEST).exists():
            self._cut(model, schedule, step)
        stored = artifact.Artifact.open(folder)
        assert stored.curve is not None, "saved with it"
        record = stored.curve.steps[-1]
        if self.tuned.epochs:
            lesson = replace(self.tuned.lesson, teacher=self.work / DENSE)
            training = train(
                folder,
                self.dataset,
                epochs=self.tuned.epochs,
                config=self.tuned.config,
                lesson=lesson if lesson.weight or lesson.features else None,
                allow_import=self.allow_import,
                description=f"tuning step {step} of {schedule.steps}",
            )
            score = training.score
            if self.dataset.choosing != "test":
                score = self._score(artifact.load(folder, allow_import=self.allow_import))
            return replace(record, tuned=score)
        return replace(record, tuned=record.repaired)

    def _cut(self, model: nn.Module, schedule: PruningSchedule, step: int) -> None:
        """Cut, repair and save the network of a step."""
        scores: list[float] = []

        def measure(network: nn.Module) -> None:
            scores.append(self._score(network))

        network = model if step == 1 else artifact.load(self.work / str(step - 1), allow_import=self.allow_import)
        earlier: Plan | None = getattr(model, "reconvene_plan", None)
        dense = model if earlier is None else self.source.build(allow_import=self.allow_import)
        start = None if network is dense else network
        small = prune_step(
            dense, start, self._inputs, schedule, self._options, step, rectify=self.pruning.rectify, see=measure
        )
        measure(small)
        plan = replace(plan_of(small), examples=len(self.dataset.train))
        record = StepRecord(step, plan.costs["pruned"], *scores)
        sections = {"pruning": record_of(self.pruning, self.budget), "curve": PruningCurve((record,), step)}
        timings = artifact.Timings(pruning=dict(plan.timings))
        artifact.save(small, self.work / str(step), plan=plan, source=self.source, extra=sections, timings=timings)

    def finish(self, asked: Mapping[str, Any], curve: PruningCurve) -> None:
        """Make the last good step the artifact. Raises TrainingError where there is none."""
        if not curve.result:
            task, (first, *_) = self.dataset.task, curve.steps
            raise TrainingError(
                f"the first step gives {task.headline} {task.show(first.tuned or 0.0)}, and the floor is "
                f"{task.show(self.tuned.floor or 0.0)}. Try more steps (--steps), more --epochs, or another --floor"
            )
        last = self.work / str(curve.result)
        places = {"dense": self.work / DENSE, "pruned": last}
        models = {name: artifact.load(path, allow_import=self.allow_import) for name, path in places.items()}
        judged = {name: as_file_computes(model, self.dataset) for name, model in models.items()}
        write_pictures(last, draw_predictions(judged, self.dataset))
        stored = artifact.Artifact.open(last)
        files = {name: stored.read(name) for name in stored.files}
        preprocessing = self.dataset.preprocessing.to_dict()
        sections = {"pruned_in_steps": asked, "curve": curve, "preprocessing": preprocessing}
        text = changed_manifest(stored.text, sections)
        with stage(f"saving to {self.folder}"), set_aside(self.folder):
            commit_files(self.folder, files, text)

    def move_results(self) -> None:
        """Put what lies beside the steps in its place beside the artifact, and remove the steps.

        What an earlier call has moved already is not there any more, so this can be stopped and called again.
        """
        if not self.work.exists():
            return
        stored = artifact.Artifact.open(self.folder)
        path = self.work / ASKED
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8"))["asked"] != stored.pruned_in_steps:
                return  # steps of another pruning, which was stopped
            assert stored.curve is not None, "saved with it"
            last = self.work / str(stored.curve.result)
            moves = [(self.work / DENSE, self.folder / DENSE)]
            moves += [(last / name, self.folder / name) for name in (LOG_NAME, PICTURES, artifact.TIMINGS)]
            for here, there in moves:
                if here.exists():
                    os.replace(here, there)
        shutil.rmtree(self.work)
