"""Which of several architectures suits a device: each is cut to its budget, what loses least comes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reconvene.allocation import Budget
from reconvene.cutting import Target, plan_with
from reconvene.devices import Profile
from reconvene.errors import BudgetError, DeviceError, StructureError
from reconvene.fleet.loss import predicted_loss
from reconvene.models import Source, example_inputs
from reconvene.planner import Data, Planner
from reconvene.text import Cell, quantity, table


@dataclass(frozen=True)
class Candidate:
    """One architecture cut to the budget; ``loss`` is None and ``trouble`` says why where that cannot be done."""

    model: str
    loss: float | None
    costs: dict[str, float]
    dense: dict[str, float]
    trouble: str = ""


@dataclass(frozen=True)
class Ranking:
    """Candidates, what loses least first."""

    device: str
    budget: Budget
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        body: list[list[Cell]] = []
        for found in self.candidates:
            costs = [quantity(cost, found.costs[cost]) if cost in found.costs else None for cost in _SHOWN]
            body.append([found.model, found.loss, *costs, found.trouble.split(". ")[0]])
        title = f"cut to {self.budget} for {self.device}, what is predicted to lose least first"
        why = [f"{found.model}: {found.trouble}" for found in self.candidates if found.trouble]
        return table(("model", "loss", *_SHOWN, ""), body, right=range(2, 7), title=title, foot=[*why, _CAVEAT])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        rows = [dict(vars(found)) for found in self.candidates]
        return {"device": self.device, "budget": dict(self.budget.asked), "candidates": rows}


_SHOWN = ("params", "macs", "peak_memory", "size", "latency")
_CAVEAT = "The loss says how deep each was cut, not how good it was to begin with: train the first few to know."


def rank(
    sources: Sequence[Source],
    budget: Budget,
    *,
    profile: Profile | None,
    device: str,
    criterion: str = "synflow",
    evaluator: str = "fan_in",
    data: Callable[[Source], Data] | None = None,
    seed: int = 0,
    allow_import: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Ranking:
    """Cut every architecture to ``budget`` on a device, and rank them by what they are predicted to lose.

    Raises UnknownNameError, ModelError, CriterionError.
    """
    found = []
    for source in sources:
        assert source.input_shape is not None, "resolve() fills it in"
        model = source.build(allow_import=allow_import)
        inputs = example_inputs(source.input_shape, seed=seed)
        samples = None if data is None else data(source)
        planner = Planner(model, inputs, criterion, samples, seed, evaluator=evaluator)
        try:
            plan = plan_with(planner, budget, target=Target(profile), say=say)
        except (BudgetError, DeviceError, StructureError) as error:
            found.append(Candidate(source.address, None, {}, {}, str(error)))
            continue
        costs = plan.costs
        found.append(Candidate(source.address, predicted_loss(plan), dict(costs["pruned"]), dict(costs["dense"])))
    found.sort(key=lambda one: (one.loss is None, one.loss or 0.0))
    return Ranking(device, budget, tuple(found))
