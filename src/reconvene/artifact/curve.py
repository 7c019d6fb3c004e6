"""How a network fared while it was pruned in steps: what each step left, and how good it was."""

from __future__ import annotations

from dataclasses import dataclass, field

from reconvene.costs import COSTS, text_of
from reconvene.tasks import task_compared_by
from reconvene.utils.schema import Count, Name, NonNegative, Number, Text, opened
from reconvene.utils.tables import Cell, text_table


@opened
@dataclass(frozen=True)
class StepRecord:
    """One step: the costs of its network, and the metric right after the cut, after the repair and after tuning.

    None where nothing was measured.
    """

    step: Count
    costs: dict[Name, NonNegative] = field(default_factory=dict)
    cut: Number | None = None
    repaired: Number | None = None
    tuned: Number | None = None


@opened
@dataclass(frozen=True)
class PruningCurve:
    """All steps of a pruning; printed, it is a table.

    ``dense`` is the metric of the network before the first step, on the same ``split`` of the data as the others
    (empty: data of the user's own). Where a step falls below the ``floor``, it is the last one, and the ``result`` is
    the network of the step before it (0: the dense one). ``larger_is_better`` is of the metric.
    """

    steps: tuple[StepRecord, ...] = ()
    result: Count = 0
    metric: Text | None = None
    dense: Number | None = None
    floor: Number | None = None
    split: Text = "test"
    larger_is_better: bool = True

    def _is_worse(self, step: StepRecord) -> bool:
        """Whether tuning took from the metric what the repair had given."""
        if step.tuned is None or step.repaired is None:
            return False
        return step.tuned < step.repaired if self.larger_is_better else step.tuned > step.repaired

    def __str__(self) -> str:
        costs = [cost for cost in COSTS if self.steps and cost in self.steps[0].costs]
        task = task_compared_by(self.metric)
        show = task.show if task.headline == self.metric else "{:.4g}".format

        def scores(*values: float | None) -> list[Cell]:
            return [None if value is None else show(value) for value in values]

        rows: list[list[Cell]] = [["dense", *("" for _ in costs), *scores(None, None, self.dense)]]
        for step in self.steps:
            amounts = [text_of(cost, step.costs[cost]) for cost in costs]
            rows.append([f"step {step.step}", *amounts, *scores(step.cut, step.repaired, step.tuned)])
        foot = [] if self.floor is None else [f"floor {show(self.floor)}: the network is that of step {self.result}"]
        if worse := [str(step.step) for step in self.steps if self._is_worse(step)]:
            foot.append(
                f"tuning left the network of step {', '.join(worse)} worse than the repair before it. Try more epochs, "
                "a lower learning rate, or no epochs at all (--epochs 0), which only repairs"
            )
        return text_table(
            ["", *costs, "cut", "repaired", "tuned"],
            rows,
            right=range(1 + len(costs), 4 + len(costs)),
            title=", ".join(part for part in (self.metric, f"{self.split} images" if self.split else "") if part),
            foot=foot,
        )
