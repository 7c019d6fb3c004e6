"""From a choice of channels to a plan: the steps that every method of choosing shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from reconvene import rectifier
from reconvene.allocation import Allocation
from reconvene.costs import COSTS, Budget
from reconvene.costs.model import CostModel
from reconvene.errors import CriterionError, ModelError, StructureError
from reconvene.evaluator import Sensitivity
from reconvene.planning.limits import LayerLimits
from reconvene.structure import Keep, Structure, analyse
from reconvene.structure.pinned import pinned_cost
from reconvene.structure.replay import pin_site, replay
from reconvene.surgery import Accounting, Plan, PlanRow, Provenance, make_plan
from reconvene.surgery.bits import BitPlan
from reconvene.surgery.ranges import to_text
from reconvene.surgery.verify import Difference, verify_plan
from reconvene.utils.notes import Note
from reconvene.utils.progress import stage


@dataclass(frozen=True)
class Choice:
    """The channels that stay, one row a group for the plan, and where the choice comes from."""

    keep: Keep
    rows: list[PlanRow]
    provenance: Provenance
    accounting: Accounting
    notes: Sequence[Note] = ()
    bits: BitPlan | None = None


_AT_WORK = {
    "structure": "finding groups",
    "saliency": "scoring",
    "sensitivity": "judging groups",
    "allocation": "choosing widths",
    "replay": "trying the widths",
    "spread": "measuring activations",
    "plan": "writing the plan",
    "verify": "comparing with the silenced network",
    "profile": "looking at the device",
    "surgery": "cutting",
    "rectify": "rectifying",
    "measure": "measuring",
}
"""What steps of planning are called while they are at work."""
_NO_VALUES = Note(
    "the model has no values (meta): no spread is known, and nothing was compared with the silenced network", "meta"
)

Choose = Callable[[Structure, CostModel, dict[str, float]], Choice]
"""From structure and costs to a choice; it adds the seconds of its own steps to the timings."""


@dataclass
class PreparedModel:
    """What all plans of one model share: its structure, and the spread of its activations once it was asked for."""

    structure: Structure
    seed: int
    data: Iterable[Any] | None = None
    """What drives spiking neurons; networks without them do not need it."""
    must_prune: bool = True
    """Whether a structure in which no channel may leave has no plan; a plan of bits needs none."""
    _spread: dict[str, float] | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_inputs: Any,
        *,
        seed: int = 0,
        limits: LayerLimits = LayerLimits(),  # noqa: B008  # frozen
        data: Iterable[Any] | None = None,
        must_prune: bool = True,
    ) -> PreparedModel:
        """Analyse a model.

        Raises StructureError where nothing can be pruned and ``must_prune``, UnknownNameError for layers to keep.
        """
        check_finite(model)
        structure = limits.hold(model, analyse(model, example_inputs))
        return cls(prunable(structure) if must_prune else structure, seed, data, must_prune)

    def spread(self, model: nn.Module, example_inputs: Any) -> dict[str, float]:
        """Activation spread of the dense network per layer; of none where the model has no values (meta)."""
        if self._spread is None:
            measured = (
                {}
                if _on_meta(model)
                else rectifier.output_spread(model, example_inputs, seed=self.seed, data=self.data)
            )
            self._spread = measured
        return self._spread


def plan_from_choice(
    model: nn.Module,
    example_inputs: Any,
    choose: Choose,
    *,
    seed: int = 0,
    prepared: PreparedModel | None = None,
    verified: bool = True,
    cost_model: Callable[[Structure], CostModel] = CostModel,
) -> Plan:
    """The plan for any method of choosing channels: analyse the structure, choose, try the choice, make the plan.

    Where the trial finds that a call does not run as chosen, or the small network differs from the silenced one, the
    channels of that call are pinned and ``choose`` is asked again.

    Args:
        model: the untrained model, only read.
        example_inputs: as for ``groups``.
        choose: the function that decides.
        seed: of the batch on which the dense network's activation spread is measured.
        prepared: results that an earlier plan of the same model left; this plan adds its own to them.
        verified: whether to compare the small network with the silenced one on the example inputs.
        cost_model: the costs of a structure; by default those that every plan tells.

    Raises:
        StructureError: nothing can be pruned, or both networks differ and no call explains it; the message says why.
    """
    timings: dict[str, float] = {}
    with timed(timings, "structure"):
        prepared = prepared or PreparedModel.of(model, example_inputs, seed=seed)
        structure = prepared.structure
        costs = cost_model(structure)
    while True:
        choice = choose(structure, costs, timings)
        with timed(timings, "replay"):
            rerun = replay(model, example_inputs, structure, choice.keep)
        failure = rerun.failure
        if failure is None:
            with timed(timings, "spread"):
                spread = prepared.spread(model, example_inputs)
            with timed(timings, "plan"):
                plan = make_plan(
                    model,
                    structure,
                    choice.keep,
                    choice.rows,
                    scalars=rerun.scalars,
                    provenance=replace(choice.provenance, seed=seed),
                    accounting=replace(choice.accounting, spread=spread, timings=timings),
                    notes=[*choice.notes, *([_NO_VALUES] if verified and _on_meta(model) else [])],
                    bits=choice.bits,
                )
            if verified and not _on_meta(model):
                with timed(timings, "verify"):
                    verification = verify_plan(plan, model, example_inputs, structure, choice.keep, seed=plan.seed)
                failure = _call_to_pin(verification.difference)
                plan = replace(plan, notes=[*plan.notes, *verification.notes])
        if failure is None:
            break
        structure = pin_site(model, structure, *failure)
        structure = prepared.structure = prunable(structure) if prepared.must_prune else structure
        costs = cost_model(structure)
    return plan


def _call_to_pin(difference: Difference | None) -> tuple[int, str] | None:
    """The call at which the small network differs from the silenced one, and how; ``None`` where it does not.

    Raises StructureError for a difference that no call explains.
    """
    if difference is None:
        return None
    if difference.call is None:
        raise StructureError(
            f"{difference.why}, and no single call explains it, so this model cannot be pruned safely. Please report "
            "it; with verify=False the plan is made without this comparison"
        )
    return difference.call, difference.why


def chosen(curves: Sensitivity, allocation: Allocation, budget: Budget, *, data: str | None = None) -> Choice:
    """The choice of an allocation: in every group the channels with the highest scores.

    The first ones where no criterion was asked for: at initialization the channels of a group are drawn alike, so none
    is better than another.
    """
    keep = _best_channels(curves, allocation.widths)
    provenance = Provenance(
        criterion=curves.criterion,
        evaluator=curves.evaluator,
        data=data,
        budget=dict(budget.asked),
        limits=allocation.limits,
    )
    accounting = Accounting({"dense": dict(allocation.dense), "pruned": dict(allocation.costs)})
    return Choice(keep, _rows(allocation, curves, keep), provenance, accounting, allocation.notes)


def _on_meta(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())


def prunable(structure: Structure) -> Structure:
    """The structure itself. Raises StructureError, with the reasons, where nothing of the model can be pruned."""
    if not structure.prunable:
        parameters = COSTS["params"]
        pinned = pinned_cost(structure, parameters.terms(structure) or (), parameters.name, plural=parameters.plural)
        because = str(pinned) if pinned.dense else "it has no parameters with channels"
        raise StructureError(f"nothing of this model can be pruned: {because}", {"params": pinned})
    return structure


def check_finite(model: nn.Module) -> None:
    """Raise ModelError for weights that are not there yet, CriterionError for weights that are not finite.

    Buffers other than statistics of norms may hold infinities: a mask of attention does, and bounds of a clamp.
    """
    statistics = {
        f"{name}.{buffer}".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        for buffer in module._buffers
    }
    weights = {name for name, _ in model.named_parameters()} | statistics
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(f"{name} is not initialized yet (a lazy module). Run the model once, then prune it.")
        if not tensor.is_floating_point() or tensor.is_meta or _finite(tensor):
            continue
        if name in weights or bool(tensor.isnan().any()):
            raise CriterionError(
                f"{name} holds values that are not finite (NaN or infinity). Load finite weights, or build an "
                "untrained model again"
            )


def _finite(tensor: Tensor) -> bool:
    """Whether every value is finite: of a finite sum each is, and of another sum each is looked at."""
    tensor = tensor.detach()
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _best_channels(curves: Sensitivity, widths: NDArray[np.int64]) -> Keep:
    """The channels with the highest scores, ascending; of equal scores, and without scores, the first."""
    return [
        np.arange(width, dtype=np.int64)
        if curve.channel_score is None
        else np.sort(np.argsort(-curve.channel_score, kind="stable")[:width]).astype(np.int64)
        for curve, width in zip(curves.curves, widths, strict=True)
    ]


def _rows(allocation: Allocation, curves: Sensitivity, keep: Keep) -> list[PlanRow]:
    return [
        PlanRow(row.group, row.dense, row.width, to_text(channels), row.loss, curve.density, row.why)
        for row, curve, channels in zip(allocation.rows, curves.curves, keep, strict=True)
    ]


@contextmanager
def timed(timings: dict[str, float], step: str) -> Iterator[None]:
    """Add the seconds that the block takes to those of ``step``, and say that it is at work."""
    start = time.perf_counter()
    try:
        with stage(_AT_WORK.get(step, step), summary=False):
            yield
    finally:
        timings[step] = timings.get(step, 0.0) + time.perf_counter() - start
