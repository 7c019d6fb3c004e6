"""Which of several architectures suits a device: each is cut to its budget, what loses least comes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reconvene.costs import Budget, text_of
from reconvene.devices import HERE, Profile, find
from reconvene.errors import BudgetError, DeviceError, StructureError
from reconvene.fleet.device_result import RankedModel, cut_fields, meanings, shown_costs, work_of
from reconvene.models import ModelSource, example_inputs
from reconvene.planning.pruning import plan_with
from reconvene.planning.session import Planner
from reconvene.planning.target import Target
from reconvene.utils.progress import track
from reconvene.utils.tables import Cell, text_table
from reconvene.workflow.prune import Samples


@dataclass(frozen=True)
class Ranking:
    """Candidates, what loses least first."""

    device: str
    budget: Budget
    candidates: tuple[RankedModel, ...]

    def __str__(self) -> str:
        body: list[list[Cell]] = []
        columns = shown_costs(self.candidates)
        for candidate in self.candidates:
            costs = [text_of(cost, candidate.costs[cost]) if cost in candidate.costs else None for cost in columns]
            body.append(
                [
                    candidate.model,
                    candidate.loss,
                    *costs,
                    work_of(candidate),
                    "nothing: see below" if candidate.trouble else "",
                ]
            )
        title = f"cut to {self.budget} for {self.device}, what is predicted to lose least first"
        why = [f"{candidate.model}: {candidate.trouble}" for candidate in self.candidates if candidate.trouble]
        header = ("model", "loss", *columns, "training FLOPs", "")
        foot = [*meanings(self.candidates), *why]
        return text_table(header, body, right=range(2, 3 + len(columns)), title=title, foot=foot)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        rows = [dict(vars(candidate)) for candidate in self.candidates]
        return {"device": self.device, "budget": dict(self.budget.asked), "candidates": rows}


def rank(
    sources: Sequence[ModelSource],
    budget: Budget,
    *,
    target: Target,
    round_to: int | None = None,
    criterion: str | None = None,
    evaluator: str | None = None,
    data: Callable[[ModelSource], Samples] | None = None,
    task: str | None = None,
    examples: int | None = None,
    seed: int = 0,
    allow_import: bool = False,
) -> Ranking:
    """Cut every architecture to ``budget`` on a device, and rank them by what they are predicted to lose.

    Args:
        target: its ``device`` is a profile, its file or name, or ``here``. A budget on latency is kept on it (and
            measured where it is this machine); without one latency is predicted for it.
        round_to: as for ``reconvene.plan``.
        task: of the data, whose loss criteria take.
        examples: training images of an epoch, for what training costs.

    Raises UnknownNameError, ModelError, CriterionError, DeviceError where there is no such profile.
    """
    device = target.device or HERE
    target = replace(target, device=device if isinstance(device, Profile) or device == HERE else find(device))
    cuts = []
    for source in track(sources, "cutting architectures", total=len(sources)):
        assert source.input_shape is not None, "resolve_address() fills it in"
        model = source.build(allow_import=allow_import)
        inputs = example_inputs(source.input_shape, seed=seed)
        samples = None if data is None else data(source)
        loss = None if samples is None else samples.loss_for(task, trained=False)
        planner = Planner(model, inputs, criterion, samples, seed, evaluator=evaluator, loss=loss)
        try:
            plan = plan_with(planner, budget, round_to=round_to, target=target)
        except (BudgetError, DeviceError, StructureError) as error:
            cuts.append(RankedModel(model=source.address, trouble=str(error)))
            continue
        plan = replace(plan, examples=examples)
        cuts.append(RankedModel(model=source.address, **cut_fields(plan)))
    cuts.sort(key=lambda cut: (cut.loss is None, cut.loss or 0.0))
    return Ranking(device.name if isinstance(device, Profile) else str(device), budget, tuple(cuts))
