"""What came out of a fleet: a row per device and architecture, as a table and as JSON types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reconvene.costs import COSTS, text_of
from reconvene.costs.unit import FLOPS
from reconvene.fleet.loss import predicted_loss
from reconvene.surgery import Plan
from reconvene.tasks import Task, task_named
from reconvene.utils.tables import Cell, text_table

TRAINING = "training FLOPs"


@dataclass(frozen=True, kw_only=True)
class RankedModel:
    """One architecture cut to a budget.

    Attributes:
        costs: of the pruned network, and ``dense``; where no plan was found, the floor.
        loss: predicted, see ``predicted_loss``; None where no plan was found.
        trouble: why there is nothing, with the floor where a budget cannot be kept, or which limit a file breaks.
        about: what a cost is that of, where that is not always the same: the file, the runtime, the device.
        training_flops: of ``training_unit``, ``dense`` and ``pruned``.
    """

    model: str
    costs: dict[str, float] = field(default_factory=dict)
    dense: dict[str, float] = field(default_factory=dict)
    loss: float | None = None
    trouble: str = ""
    about: dict[str, str] = field(default_factory=dict)
    training_flops: dict[str, float] = field(default_factory=dict)
    training_unit: str = ""


@dataclass(frozen=True, kw_only=True)
class DeviceRow(RankedModel):
    """One device and one architecture.

    Attributes:
        chosen: whether the device gets this architecture: of those that keep its budget, the one that loses least.
        folder: of the artifact, under the fleet's.
        key: of everything that decides the artifact.
        task: what it was trained for; empty where nothing was trained.
        score: the headline of that task on the test images.
        dense_score: the headline of the trained network that was cut; None where none was.
        files: bytes of every exported file.
    """

    device: str
    budget: dict[str, Any]
    key: str
    limits: dict[str, float] = field(default_factory=dict)
    chosen: bool = False
    folder: str = ""
    task: str = ""
    score: float | None = None
    dense_score: float | None = None
    files: dict[str, int] | None = None

    @property
    def asked(self) -> str:
        """Its budget as it was written."""
        return ", ".join(f"{cost} {value}" for cost, value in self.budget.items())


@dataclass(frozen=True)
class Result:
    """A row per device and architecture, by device, and how many artifacts were made now."""

    rows: tuple[DeviceRow, ...]
    written: int
    reused: int
    folder: Path

    def __str__(self) -> str:
        body: list[list[Cell]] = []
        columns = shown_costs(self.rows)
        for row in self.rows:
            costs = [text_of(cost, row.costs[cost]) if cost in row.costs else None for cost in columns]
            score = score_text(row, lambda value, task: task.show(value))
            missed = "over its limit: see below" if row.folder else "nothing: see below"
            mark = missed if row.trouble else "chosen" if row.chosen else ""
            body.append([row.device, row.model, row.asked, *costs, work_of(row), row.loss, score, mark])
        header = ("device", "model", "budget", *columns, "training FLOPs", "loss", score_name(self.rows), "")
        why = [f"{row.device}, {row.model}: {row.trouble}" for row in self.rows if row.trouble]
        nothing = self.unserved
        foot = [
            *meanings(self.rows),
            *why,
            *([f"devices that get nothing: {', '.join(nothing)}"] if nothing else []),
            f"{self.written} artifacts made, {self.reused} were there already",
            f"page: {self.folder / 'index.html'}",
        ]
        return text_table(header, body, right=range(3, 5 + len(columns)), foot=foot)

    @property
    def devices(self) -> dict[str, list[DeviceRow]]:
        """Rows by device, in the order of the file."""
        by_device: dict[str, list[DeviceRow]] = {}
        for row in self.rows:
            by_device.setdefault(row.device, []).append(row)
        return by_device

    @property
    def unserved(self) -> list[str]:
        """Devices that get nothing."""
        return [device for device, rows in self.devices.items() if not any(row.chosen for row in rows)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        rows = [dict(vars(row)) for row in self.rows]
        return {"rows": rows, "made": self.written, "kept": self.reused, "folder": str(self.folder)}


def cut_fields(plan: Plan) -> dict[str, Any]:
    """The costs and the predicted loss of a plan, as fields of ``RankedModel``."""
    return {
        "costs": dict(plan.costs["pruned"]),
        "dense": dict(plan.costs["dense"]),
        "loss": predicted_loss(plan),
        "about": _about(plan),
        "training_flops": plan.training_flops,
        "training_unit": plan.training_unit,
    }


def _about(plan: Plan) -> dict[str, str]:
    """The conditions of size, memory, latency and training FLOPs, by cost, in the words of the plan."""
    present = plan.costs["pruned"]
    usual = {name: cost.condition for name, cost in COSTS.items() if name in present and cost.condition}
    return {**usual, **plan.conditions, TRAINING: f"of {plan.training_unit}, beside those of the dense network"}


def shown_costs(rows: Iterable[RankedModel]) -> list[str]:
    """The costs that any row has, in the order of the registry."""
    present = {name for row in rows for name in row.costs}
    return [name for name in COSTS if name in present]


def score_name(rows: Iterable[DeviceRow]) -> str:
    """What the scores of the rows are: the headline of their task, since a fleet has one data set."""
    return next((task_named(row.task).headline for row in rows if row.score is not None), "score")


def score_text(row: DeviceRow, show: Callable[[float, Task], str]) -> str | None:
    """The headline, beside that of the trained network that was cut: ``91.2 % (dense 94.0 %)``; None without one."""
    if row.score is None:
        return None
    task = task_named(row.task)
    shown = show(row.score, task)
    return shown if row.dense_score is None else f"{shown} (dense {show(row.dense_score, task)})"


def meanings(rows: Iterable[RankedModel], name_of: Callable[[str], str] = str) -> list[str]:
    """One line for the conditions of each cost, with the devices or models they hold for where rows differ.

    Last what training FLOPs are of, and what a predicted loss says. ``name_of``: the name of a cost in the text.
    """
    able = [row for row in rows if row.loss is not None]
    lines = []
    for cost in (*COSTS, TRAINING):
        owners: dict[str, list[str]] = {}
        for row in able:
            if cost in row.about:
                owners.setdefault(row.about[cost], []).append(row.device if isinstance(row, DeviceRow) else row.model)
        for text, those in owners.items():
            whose = f" ({', '.join(dict.fromkeys(those))})" if len(owners) > 1 else ""
            lines.append(f"{name_of(cost)}{whose}: {text}")
    return [*lines, *([CAVEAT] if able else [])]


CAVEAT = "loss: how deep an architecture was cut, not how good it was to begin with; only training tells that"


def work_of(row: RankedModel) -> str | None:
    """Training FLOPs beside those of the dense network: ``12.3 G of 98.1 G``."""
    work = row.training_flops
    return f"{FLOPS.text(work['pruned'])} of {FLOPS.text(work['dense'])}" if work else None


def mark_chosen(rows: Iterable[DeviceRow]) -> list[DeviceRow]:
    """Mark what each device gets: by the headline of its task where all were trained, else by predicted loss."""
    best: dict[str, DeviceRow] = {}
    for row in (candidates := list(rows)):
        if row.loss is not None and not row.trouble:
            leader = best.get(row.device)
            if leader is None or _rank(row) < _rank(leader):
                best[row.device] = row
    return [replace(row, chosen=best.get(row.device) is row) for row in candidates]


def front(rows: Iterable[DeviceRow], cost: str) -> list[DeviceRow]:
    """The rows that no other one beats in both this cost and predicted loss, by rising cost."""
    able = [row for row in rows if row.loss is not None and cost in row.costs and not row.trouble]
    best: list[DeviceRow] = []
    for row in sorted(able, key=lambda row: (row.costs[cost], row.loss)):
        if not best or (row.loss or 0.0) < (best[-1].loss or 0.0):
            best.append(row)
    return best


def _rank(row: DeviceRow) -> tuple[float, float]:
    if row.score is None:
        return 0.0, row.loss or 0.0
    return -row.score if task_named(row.task).larger_is_better else row.score, row.loss or 0.0
