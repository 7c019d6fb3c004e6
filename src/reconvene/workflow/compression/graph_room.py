"""Room in a limit on the bytes of a file for what plans of bits do not count: its graph."""

from __future__ import annotations

import tempfile
from math import ceil
from pathlib import Path

from torch import nn

from reconvene import artifact
from reconvene.costs import COSTS, Budget, read_budget
from reconvene.data.calibration import TRAINED_SAMPLES
from reconvene.errors import BudgetError
from reconvene.planning.pruning import plan_by
from reconvene.planning.schedule import amount_text
from reconvene.utils.progress import note, stage
from reconvene.workflow.compression.stage import StageWork
from reconvene.workflow.compression.weighing import exported_files
from reconvene.workflow.prune import Pruning, Samples

_ATTEMPTS = 4
"""Files that are weighed at most: how many bytes a graph takes depends a little on what is decided."""


def without_graph(budget: Budget, work: StageWork, pruning: Pruning, *, share: float) -> Budget:
    """The budget with ``size``, which is of the file that the recipe ends with, as bytes of packed weights.

    The network of ``work`` is planned, exported and weighed until the file is small enough.

    Args:
        budget: of the file; one without ``size`` is returned as it is.
        pruning: options of the plan, with bits.
        share: of the limit that a file may take here, where later ones may be larger.

    Raises BudgetError: not even the smallest network has so small a file.
    """
    if "size" not in budget.asked:
        return budget
    limit = packed = read_budget("size", budget.asked["size"]).of(0.0)
    planner = _Planner(budget, work, pruning)
    graph = None
    with stage("leaving room for the graph of the file"):
        for _ in range(_ATTEMPTS):
            try:
                weights, file = planner.weigh(packed)
            except BudgetError as error:
                raise planner.refusal(error, graph) from error
            graph = file - weights
            if file <= share * limit:
                break
            packed = share * limit - graph  # less than before, since weights and graph together take more
    if packed < limit:
        unit = COSTS["size"].unit
        note(f"room for the graph of the file: {unit.phrase(ceil(limit - packed))} of {unit.phrase(limit)}")
    return planner.with_packed(packed)


class _Planner:
    """Plans of bits for the network of a stage, and the bytes of their files."""

    def __init__(self, budget: Budget, work: StageWork, pruning: Pruning) -> None:
        self._budget, self._work, self._pruning = budget, work, pruning
        self._model = artifact.load(work.before, allow_import=work.allow_import).eval()
        samples = Samples(lambda: work.dataset, seed=work.seed, most=TRAINED_SAMPLES * pruning.trained)
        self._options = pruning.options(samples, work.dataset.task)

    def with_packed(self, packed: float) -> Budget:
        """The budget with this limit on packed weights."""
        return Budget(**{**self._budget.asked, "size": amount_text("size", max(packed, 1.0))})

    def weigh(self, packed: float) -> tuple[float, int]:
        """Bytes of the packed weights of a plan, and of its file. Raises BudgetError."""
        plan = plan_by(self._model, self._work.inputs, self.with_packed(packed), self._options)
        return plan.costs["pruned"]["size"], _bytes_of_largest(plan.apply(self._model), self._work)

    def refusal(self, error: BudgetError, graph: float | None) -> BudgetError:
        """The error of a plan, in bytes of the file; ``graph``: as far as one was weighed."""
        if "size" not in error.floor:
            return error
        if graph is None:
            try:
                weights, file = self.weigh(ceil(error.floor["size"]))
            except BudgetError:  # another limit cannot be kept either
                return error
            graph = file - weights
        unit, floor = COSTS["size"].unit, ceil(error.floor["size"] + graph)
        advice = "" if 0 in (self._pruning.bits or ()) else ", or let channels leave as well: choices: [0, 2, 4, 8]"
        return BudgetError(
            f"size {self._budget.asked['size']} of the file cannot be kept: beside the packed weights it has a graph "
            f"of {unit.phrase(ceil(graph))}, and the floor is {unit.phrase(floor)}. Ask for no less than the "
            f"floor{advice}",
            {**error.floor, "size": floor},
            error.pinned,
        )


def _bytes_of_largest(small: nn.Module, work: StageWork) -> int:
    """Of the files in the formats of the recipe."""
    with tempfile.TemporaryDirectory(prefix="reconvene-weigh-") as folder:
        formats = ["onnx", *work.formats]  # a recipe measures the ONNX file of every stage
        files = exported_files(small, work, formats, Path(folder), quantize="plan")
        return max(file.bytes for file in files.values())
