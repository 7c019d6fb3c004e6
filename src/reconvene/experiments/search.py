"""A small architecture search: evolution over widths, each candidate trained briefly, all of its time counted.

A candidate is one pace per group, as in random widths; the solver turns paces into widths that keep the budget, so the
search spends nothing on networks that are too large. Fitness is the headline of the task, on training images that are
held out for it, of a network trained for a few epochs on the others. Test images play no part.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reconvene.data import Dataset, Split
from reconvene.errors import ExperimentError
from reconvene.experiments.baselines import log_share, plan_from
from reconvene.experiments.context import PreparedRun, Setting, apply_plan
from reconvene.experiments.options import FITTEST
from reconvene.surgery import Plan
from reconvene.training import train_model
from reconvene.utils.files import write_atomic

SEARCH_OPTIONS = {"population": 8, "generations": 4, "proxy_epochs": 1, "proxy_images": 4000, "rectify": "reinit"}
SPREAD, STEP = 0.7, 0.35
KNOWN = "candidates-by-score.jsonl"

_Pace = NDArray[np.float64]


def nas(setting: Setting) -> PreparedRun:
    """The fittest of ``population * generations`` candidates: the first generation random, the first of it uniform."""
    options = {name: int(setting.options[name]) for name in SEARCH_OPTIONS if name != "rectify"}
    rng = np.random.Generator(np.random.PCG64([setting.seed, 2]))
    judge = _Judge(setting, _proxy(setting.dataset, options["proxy_images"]), options["proxy_epochs"])
    groups = len(judge.plan(None).rows)
    young: list[_Pace] = [np.zeros(groups), *rng.normal(0.0, SPREAD, (options["population"] - 1, groups))]
    ranked: list[tuple[float, int, _Pace]] = []
    for _ in range(options["generations"]):
        for pace in young:
            ranked.append((judge.fitness(pace), -len(ranked), pace))  # of equally fit ones the older
        ranked.sort(key=lambda entry: entry[:2], reverse=True)
        young = [_child([pace for *_, pace in ranked[:FITTEST]], rng) for _ in range(options["population"])]
    best = judge.plan(ranked[0][2])
    ready = apply_plan(setting, best, rectify=str(setting.options["rectify"]))
    ready.seconds["search"] = judge.seconds
    ready.facts = {"candidates": len(judge.judged), "proxy_fitness": ranked[0][0]}
    return ready


def _child(parents: list[_Pace], rng: np.random.Generator) -> _Pace:
    """Each group's pace from one of two parents, then moved a little."""
    first, second = (parents[int(i)] for i in rng.integers(len(parents), size=2))
    crossed = np.where(rng.random(len(first)) < 0.5, first, second)
    return np.asarray(crossed + rng.normal(0.0, STEP, len(first)), dtype=np.float64)


def _proxy(dataset: Dataset, images: int) -> Dataset:
    """So many of the training images, the same ones for every search; the last fifth of them to judge by."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(dataset.train), generator=generator)[:images]
    cut = len(order) - len(order) // 5
    parts = [Split(dataset.train.images[part], dataset.train.targets[part]) for part in (order[:cut], order[cut:])]
    return replace(dataset, train=parts[0], test=parts[1], note="proxy of a search")


class _Judge:
    """Trains candidates; what it knows survives an interruption, with the seconds it took to find out."""

    def __init__(self, setting: Setting, dataset: Dataset, epochs: int) -> None:
        self.setting, self.dataset, self.epochs = setting, dataset, epochs
        self.file = setting.folder / KNOWN
        self.judged: dict[str, tuple[float, float]] = {}
        if self.file.exists():
            finished = [line for line in self.file.read_text(encoding="utf-8").split("\n")[:-1] if line]
            self.judged = {entry["widths"]: (entry["score"], entry["seconds"]) for entry in map(json.loads, finished)}
            write_atomic(self.file, "".join(line + "\n" for line in finished).encode(), error=ExperimentError)

    @property
    def seconds(self) -> float:
        """Of all candidates, those of earlier attempts at this run included."""
        return sum(seconds for _, seconds in self.judged.values())

    def plan(self, pace: _Pace | None) -> Plan:
        return plan_from(
            self.setting,
            "nas",
            lambda structure, costs: [
                log_share(group.width) / np.exp(0.0 if pace is None else pace[g])
                for g, group in enumerate(structure.prunable)
            ],
            step=self.setting.round_to,
            plain=False,
        )

    def fitness(self, pace: _Pace) -> float:
        """The higher, the better: the headline after a brief training. Equal widths are trained once."""
        start = time.perf_counter()
        plan = self.plan(pace)
        widths = ",".join(str(row.width) for row in plan.rows)
        if widths not in self.judged:
            small = apply_plan(self.setting, plan, rectify=str(self.setting.options["rectify"])).model
            config = replace(self.setting.config, checkpoint_seconds=1e9)
            with tempfile.TemporaryDirectory(prefix="reconvene-nas-") as folder:
                result = train_model(small, self.dataset, epochs=self.epochs, directory=Path(folder), config=config)
            self.judged[widths] = (result.score, time.perf_counter() - start)
            entry = {"widths": widths, "score": result.score, "seconds": self.judged[widths][1]}
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        score = self.judged[widths][0]
        return score if self.dataset.task.larger_is_better else -score
