"""Records of runs as rows of a table: one for every model, data set, budget, arm and recipe, over its seeds."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene.costs.synops import Synops
from reconvene.experiments.budget_use import BudgetUse, budget_use
from reconvene.experiments.config import arm_label
from reconvene.experiments.contents import data_names, differing_contents
from reconvene.experiments.results import Record, score_of, task_of
from reconvene.tasks import DEFAULT, Task
from reconvene.utils.tables import faster, text_table


@dataclass(frozen=True)
class Mean:
    """Mean and spread (standard deviation, n - 1) over ``n`` seeds; no spread for one."""

    value: float
    spread: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Of these values, one at least."""
        middle = sum(values) / len(values)
        if len(values) == 1:
            return cls(middle, None, 1)
        return cls(middle, math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1)), len(values))

    def __str__(self) -> str:
        return f"{self.value:.1f}" + (f" ± {self.spread:.1f}" if self.spread is not None else "")


@dataclass(frozen=True)
class ArmSummary:
    """One arm under one budget. Shares of dense: ``params``, ``macs``; seconds: ``search``, ``epoch``, ``latency``.

    ``search`` and ``epoch`` are medians over seeds: one that ran beside other work would decide a mean.
    """

    model: str
    data: str
    budget: str
    label: str
    task: Task
    score: Mean
    """The headline of the task, of a share in percent."""
    params: float
    macs: float
    search: float
    epoch: float
    training_macs: float
    latency: float | None
    speedup: float | None
    """Over the dense network; None for that network itself."""
    extra: dict[str, Mean]
    packed: float | None
    """Bytes of packed weights, scales and biases, where bits were decided."""
    used: BudgetUse | None
    """Of the budget, by the seed that used most; None where there is none, or where no cost of it was measured."""
    records: tuple[Record, ...]

    @property
    def score_title(self) -> str:
        """What ``score`` is: ``accuracy %``, ``mae``."""
        return f"{self.task.headline} %" if self.task.is_share else self.task.headline

    @property
    def score_text(self) -> str:
        """``91.2 ± 0.3``."""
        if self.task.is_share or self.score.spread is None:
            return str(self.score) if self.task.is_share else self.task.show(self.score.value)
        return f"{self.task.show(self.score.value)} ± {self.score.spread:.2g}"

    @property
    def rank(self) -> float:
        """The higher, the better."""
        return self.score.value if self.task.larger_is_better else -self.score.value


EXTRA = ("calibration error", "worst class", "worst drop", "agreement", "corrupted", "SynOps", "spike rate")
"""Columns beyond the headline: shares in [0, 1] that a record may hold, some beside the dense one of its seed."""


def summarise(records: Iterable[Record]) -> list[ArmSummary]:
    """Rows in order of model, data, budget (arms without one first), then of first appearance.

    Only seeds are averaged over. Whatever else differs between runs of one model and data set stands behind the arm:
    ``ours, lr 0.2``. Data with other contents under the same name are another data set: ``cells (sha256 5be38074)``.
    """
    all_records = list(records)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record, data in zip(all_records, data_names(all_records), strict=True):
        groups.setdefault((_model(record["run"]), data), []).append(record)
    texts = dict.fromkeys(budget_text(record["run"]["budget"]) for record in all_records)
    budgets = sorted(texts, key=lambda text: text != WHOLE)
    return [line for (model, data), group in groups.items() for line in _lines(model, data, group, budgets)]


WHOLE = "whole"


def budget_text(budget: dict[str, Any]) -> str:
    """A budget in a few words."""
    return ", ".join(f"{cost} {value}" for cost, value in budget.items()) or WHOLE


def as_text(lines: Sequence[ArmSummary]) -> str:
    """The rows as a table for a terminal."""
    rows = [[line.model, line.data, line.budget, *cells(line)] for line in lines]
    header = ["model", "data", "budget", *header_of(lines)]
    return text_table(header, rows, right=range(4, len(header)))


def over_budget(lines: Iterable[ArmSummary]) -> str:
    """Which methods take more than their budget allows, as a sentence; empty where none does."""
    over = [f"{line.label} under {line.budget} ({line.used})" for line in lines if line.used and line.used.missed]
    return f"Over their budget: {', '.join(over)}." if over else ""


def caveats(lines: Iterable[ArmSummary]) -> str:
    """What must be said beside all of the rows, as sentences; empty where nothing must."""
    return differing_contents([record for line in lines for record in line.records])


def header_of(lines: Iterable[ArmSummary]) -> list[str]:
    """The headings of ``cells``; where the lines are of several tasks, their headlines share a column."""
    scores = " or ".join(dict.fromkeys(line.score_title for line in lines))
    return [
        "arm",
        scores,
        "seeds",
        "params",
        "MACs",
        "budget used",
        "search s",
        "s/epoch",
        "latency ms",
        "speed-up",
    ]


def cells(line: ArmSummary) -> list[str]:
    """One row of results as text, under ``header_of``."""
    return [
        line.label,
        line.score_text,
        str(line.score.n),
        f"1/{1 / line.params:.3g}",
        f"1/{1 / line.macs:.3g}",
        "" if line.used is None else str(line.used),
        f"{line.search:.1f}",
        f"{line.epoch:.1f}",
        "" if line.latency is None else f"{line.latency * 1e3:.3f}",
        "" if line.speedup is None else faster(line.speedup),
    ]


def _lines(model: str, data: str, records: list[Record], budgets: list[str]) -> list[ArmSummary]:
    """The rows of one model and data set, in the order of ``budgets``."""
    varied = _varied([_settings(record["run"]) for record in records])
    by_row: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        settings = _settings(record["run"])
        label = ", ".join([_label(record["run"]), *(f"{name} {settings[name]}" for name in varied if name in settings)])
        by_row.setdefault((budget_text(record["run"]["budget"]), label), []).append(record)
    dense = {_pairing_key(record): record for record in records if _is_dense([record])}
    ranked = sorted(by_row, key=lambda row: budgets.index(row[0]))
    return [_line(model, data, *row, by_row[row], dense) for row in ranked]


def _line(
    model: str,
    data: str,
    budget: str,
    label: str,
    records: list[Record],
    dense: dict[tuple[int, str], Record],
) -> ArmSummary:
    timed = [record["latency"] for record in records if record["latency"]]
    task = task_of(records[0])
    beyond = [_beyond(record, dense.get(_pairing_key(record))) for record in records]
    by_measure = {name: [values[name] for values in beyond if name in values] for name in EXTRA}
    return ArmSummary(
        model,
        data,
        budget,
        label,
        task,
        Mean.of([(100 if task.is_share else 1) * score_of(record) for record in records]),
        params=_mean(record["params"] / record["dense"]["params"] for record in records),
        macs=_mean(record["macs"] / record["dense"]["macs"] for record in records),
        search=median(record["search"]["seconds"] for record in records),
        epoch=median(record["training"]["seconds_per_epoch"] for record in records),
        training_macs=_mean(record["training"]["macs"] for record in records),
        latency=_mean(entry["seconds"] for entry in timed) if timed else None,
        speedup=_mean(entry["speedup"] for entry in timed) if timed and not _is_dense(records) else None,
        extra={name: Mean.of([100 * v for v in values]) for name, values in by_measure.items() if values},
        packed=_mean(record["facts"]["packed"] for record in records) if _has_bits(records) else None,
        used=max((use for record in records if (use := budget_use(record)) is not None), default=None),
        records=tuple(records),
    )


def _is_dense(records: list[Record]) -> bool:
    return bool(records[0]["run"]["arm"] == "dense")


def _has_bits(records: list[Record]) -> bool:
    return all("packed" in record.get("facts", {}) for record in records)


def _beyond(record: Record, dense: Record | None) -> dict[str, float]:
    """The measures of one run other than the headline, as far as its task and its network have them."""
    measures = _spikes(record, dense)
    assessment = record.get("assessment")
    if not assessment:
        return measures
    columns = {"calibration error": "calibration_error", "worst class": "worst_accuracy"}
    if task_of(record).is_share:
        columns["corrupted"] = "corrupted"
    measures |= {column: assessment[name] for column, name in columns.items() if name in assessment}
    if dense is not None and dense is not record and dense.get("assessment") and "answers" in assessment:
        answers, before = _answers(assessment), _answers(dense["assessment"])
        measures["agreement"] = float((answers == before).mean())
        measures["worst drop"] = max(dense["per_class"][name] - value for name, value in record["per_class"].items())
    return measures


def _spikes(record: Record, dense: Record | None) -> dict[str, float]:
    """Of a spiking network: spikes a neuron and step, and synaptic operations over the dense network's."""
    counted, whole = (
        Synops.from_dict(one["synops"]) if one is not None and one.get("synops") else None for one in (record, dense)
    )
    if counted is None:
        return {}
    share = {} if whole is None else {"SynOps": counted.operations / whole.operations}
    return {"spike rate": counted.spike_rate, **share}


def _answers(assessment: Record) -> NDArray[np.uint16]:
    return np.frombuffer(zlib.decompress(base64.b64decode(assessment["answers"])), dtype=np.uint16)


def _settings(run: dict[str, Any]) -> dict[str, Any]:
    """What decides a result besides model, data, budget, arm and seed, where it is not the usual."""
    besides = ("epochs", "limit", "input", "round_to", "device")
    settings = {**run["train"], **{name: run[name] for name in besides if run.get(name) is not None}}
    task = run.get("task", DEFAULT.name)
    return settings if task == DEFAULT.name else {**settings, "task": task}


def _varied(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The settings that differ between runs."""
    names = dict.fromkeys(name for run_settings in settings for name in run_settings)
    return [name for name in names if any(run_settings.get(name) != settings[0].get(name) for run_settings in settings)]


def _pairing_key(record: Record) -> tuple[int, str]:
    """What a run has in common with the dense run, of its model and data, that it is compared with."""
    run = record["run"]
    conditions = {name: value for name, value in _settings(run).items() if name not in ("round_to", "device")}
    return run["seed"], json.dumps(conditions, sort_keys=True)


def _label(run: dict[str, Any]) -> str:
    """As it is called today: what was an arm's usual choice when it ran may not be any more."""
    return arm_label(run["arm"], run["options"])


def _model(run: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in run["args"].items())
    return f"{run['model']} ({arguments})" if arguments else str(run["model"])


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
