"""What a report is made of: the results of the steps, in the types of their rooms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reconvene.artifact import ExportRecord
from reconvene.artifact.curve import PruningCurve
from reconvene.costs.synops import Synops
from reconvene.data import Preprocessing
from reconvene.safety import Safety
from reconvene.surgery.bits import BitPlan
from reconvene.surgery.cut import PlanRow
from reconvene.tasks import DEFAULT, Assessment, task_named


@dataclass
class ReportData:
    """The contents of a page. What is empty or ``None`` has no section in it.

    Attributes:
        model: what the model is called.
        costs: ``{"dense": {cost: value}, "pruned": {cost: value}}``; costs are ``params``, ``macs``, ``size`` (bytes of
            the file), ``peak_memory`` (bytes), ``latency`` (seconds).
        groups: the rows of the plan.
        pinned: rows of ``Plan.pinned``: ``name``, ``width``, ``why``.
        bits: of the weights, where the plan decides them.
        budget: what was asked, as written: ``{"params": "16x"}``; ``limits``: the same in absolute numbers.
        measured: costs that were measured after the plan, of the finished network.
        spread: activation spread, small over dense, by layer.
        training: records of ``train.jsonl`` by variant: ``{"dense": [...], "pruned": [...]}``.
        examples: training images of an epoch; ``None`` where nothing was trained.
        task: what was trained for, by its name in ``reconvene.tasks.TASKS``.
        scores: the task's headline by variant; without it, the last epoch of ``training``.
        assessment: what was found beyond the headline, by variant.
        safety: by variant, and by the name of an exported file.
        synops: synaptic operations of a spiking network, by variant.
        pictures: a few test images, one row each: PNG files in base64 by heading, ``image``, ``truth``, ``dense``, ...
        trained: whether the network was trained before it was cut, and kept its weights.
        as_cut: the headline of a trained network and of what was left right after the cut, by variant.
        recipe: by what the network was trained: epochs, rate and the like.
        preprocessing: from a picture to the input, and from outputs to classes.
        curve: how a pruning in steps went.
        bench: ``BenchResult.to_dict()``, as ``bench.json`` holds it; files of older releases lack some entries.
        exports: the exported files, each with its verification or ``None``.
        timings: seconds of each step of pruning, in order.
        refused: why an int8 file was not kept, by its name.
        data: what data the criterion used, in words; ``dataset``: what was trained on.
        notes: anything the reader should know, one sentence each.
        command: the command line that makes it again.
        date: ISO 8601.
    """

    model: str
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    groups: list[PlanRow] = field(default_factory=list)
    pinned: list[dict[str, Any]] = field(default_factory=list)
    bits: BitPlan | None = None
    budget: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    training: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    task: str = DEFAULT.name
    scores: dict[str, float] = field(default_factory=dict)
    assessment: dict[str, Assessment] = field(default_factory=dict)
    safety: dict[str, Safety] = field(default_factory=dict)
    synops: dict[str, Synops] = field(default_factory=dict)
    pictures: list[dict[str, str]] = field(default_factory=list)
    as_cut: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    curve: PruningCurve | None = None
    bench: dict[str, Any] | None = None
    exports: list[ExportRecord] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    trained: bool = False
    criterion: str | None = None
    evaluator: str | None = None
    rectify: str | None = None
    data: str | None = None
    dataset: str | None = None
    examples: int | None = None
    seed: int | None = None
    notes: list[str] = field(default_factory=list)
    command: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    date: str | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether a network whose weights were kept was trained on after a cut."""
        if self.recipe or self.curve is None:
            return bool(self.recipe)
        by_user = self.curve.split == ""  # a function of the user's own, in steps
        return by_user or any(step.tuned is not None for step in self.curve.steps)

    def epochs(self, variant: str) -> list[dict[str, Any]]:
        """The epoch records of one variant's training."""
        return [row for row in self.training.get(variant, ()) if row.get("event", "epoch") == "epoch"]

    @property
    def curve_split(self) -> str:
        """The split that networks were judged by after each epoch: ``validation`` where one was held out."""
        rows = [row for variant in self.training for row in self.epochs(variant)]
        return "validation" if any("validation_loss" in row for row in rows) else "test"

    def headlines(self) -> dict[str, float]:
        """The task's headline by variant: as given, else what the last epoch says."""
        if self.scores:
            return dict(self.scores)
        key = f"test_{task_named(self.task).headline}"
        last = {variant: self.epochs(variant)[-1] for variant in self.training if self.epochs(variant)}
        return {variant: row[key] for variant, row in last.items() if key in row}
