"""From curves and a budget to widths: water level or prices, refinement, filling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from reconvene.allocation.candidates import Ladders, ladders, step_of
from reconvene.allocation.constraints import Pieces, capped, simplify_equations
from reconvene.allocation.feasibility import Costs, PriceMeter
from reconvene.allocation.greedy_fill import fill_finer, fill_widths
from reconvene.allocation.lagrangian import minimise_loss
from reconvene.allocation.local_search import trade
from reconvene.allocation.result import Allocation, AllocationRow
from reconvene.allocation.water_filling import sink
from reconvene.costs import Budget, text_of
from reconvene.costs.budget import factor_meant
from reconvene.errors import BudgetError, CriterionError, PinnedCost, StructureError
from reconvene.evaluator import Sensitivity
from reconvene.structure.lattice import systems
from reconvene.utils.arrays import Floats, Widths

if TYPE_CHECKING:
    from reconvene.structure import Structure


def allocate(
    structure: Structure,
    sensitivity: Sensitivity,
    costs: Costs,
    budget: Budget,
    *,
    limits: Mapping[str, float] | None = None,
    round_to: int = 8,
    refine: bool = False,
    slack: float = 0.05,
    plain: bool = False,
    fixed: Mapping[int, int] = MappingProxyType({}),
) -> Allocation:
    """Widths of ``structure.prunable`` that keep every budget, fill the tightest, and lose least.

    1. Water level: each group keeps the fewest channels with ``loss(k) <= tau``, at the lowest ``tau`` that keeps all
       budgets. For groups that budgets do not hold back the level sinks further. Where losses add up
       (``sensitivity.adds_up``) every channel pays its price instead, for the least sum of squared losses.
    2. Refinement: trades that lower the sum of squared losses; no group ends more than ``slack`` (a share) above
       ``tau``; where losses add up any may.
    3. Filling: no group, with those that equations tie to it, can grow one step within the budgets. With ``refine``,
       where the tightest budget is used to less than nine tenths then, in steps of a half, a quarter, an eighth.

    ``limits``: the absolute limits of the budget's costs; by default as the budget has them of ``costs.dense``.

    ``plain`` stops after the first step: the curves alone decide, and what is left of the budget stays unused.

    ``fixed``: groups (their place in ``structure.prunable``) that have exactly this width; what equations tie to them
    follows.

    Widths are multiples of ``round_to``, halved until it goes four times into the group; never zero; the dense width
    is always allowed. Only where multiples cannot keep the budget are widths below one step used. Same input, same
    widths.

    Raises ``BudgetError`` with ``floor`` for a budget that no widths keep, ``StructureError`` when nothing can be
    pruned.
    """
    names = [group.name for group in structure.prunable]
    if not names:
        raise StructureError(
            "nothing in this model can be pruned: every group is pinned (see the reasons in the groups)"
        )
    if round_to < 1:
        raise BudgetError(f"round_to={round_to}: widths are multiples of a whole number of at least 1")
    losses = _losses(names, sensitivity)
    dense = np.array([group.width for group in structure.prunable], dtype=np.int64)
    caps = capped(structure.balances, dense, fixed)
    losses = [loss[: cap + 1] for loss, cap in zip(losses, caps, strict=True)]
    equations = simplify_equations(structure.balances, caps)
    meter = PriceMeter(costs, budget.limits(costs.dense) if limits is None else limits)
    ladder_set, allowed = _feasible(caps, losses, equations, meter, budget, round_to, fixed)
    level, base, position = sink(ladder_set, meter)
    cap = level * (1.0 + slack)
    if sensitivity.adds_up:
        base = position = minimise_loss(ladder_set, position, meter)
        level, cap = float(ladder_set.at_position(ladder_set.level, base).max()), np.inf
    if plain:
        widths = ladder_set.widths(base)
    else:
        position = trade(ladder_set, position, meter, cap=cap)
        widths = fill_widths(ladder_set.widths(position), losses, equations, allowed, meter)
    coarse_widths, finest = widths, round_to
    if refine and not plain:
        widths, finest = fill_finer(widths, losses, equations, allowed, meter, round_to=round_to)
    reasons = _Reasons(
        dense=caps,
        base=ladder_set.widths(base),
        losses=losses,
        equations=equations,
        allowed=allowed,
        level=level,
        round_to=round_to,
        roomy=meter.fits(caps),
        adds_up=sensitivity.adds_up,
    )
    why = [
        "the width that was asked for"
        if g in fixed
        else reasons.why(g, names, widths)
        if widths[g] == coarse_widths[g]
        else f"grown in steps of {finest} to fill the budget"
        for g in range(len(names))
    ]
    return Allocation(
        widths=widths,
        costs={cost: costs.evaluate(cost, widths) for cost in costs.dense},
        limits=meter.limits,
        dense=dict(costs.dense),
        water_level=level,
        rows=tuple(
            AllocationRow(name, int(dense[g]), int(widths[g]), float(losses[g][widths[g]]), why[g])
            for g, name in enumerate(names)
        ),
        round_to=round_to,
        finest=finest,
    )


def _losses(names: Sequence[str], sensitivity: Sensitivity) -> list[Floats]:
    if [curve.group for curve in sensitivity.curves] != list(names):
        raise StructureError("the sensitivity was taken of another structure: its groups are not those to allocate")
    for curve in sensitivity.curves:
        kept = curve.loss[1:]
        if not np.all(np.isfinite(kept)) or np.any(np.diff(kept) > 0) or kept[-1] != 0:
            raise CriterionError(f"the curve of group {curve.group!r} is not finite, nonincreasing and zero at the end")
    return [curve.loss for curve in sensitivity.curves]


def _feasible(
    dense: Widths,
    losses: Sequence[Floats],
    equations: Sequence[Pieces],
    meter: PriceMeter,
    budget: Budget,
    round_to: int,
    fixed: Mapping[int, int],
) -> tuple[Ladders, list[Widths]]:
    """Ladders whose lowest rungs keep the budget, with narrower rungs than one step only if it takes them."""
    for fine in (False, True):
        ladder_set, allowed = ladders(dense, losses, equations, round_to=round_to, fine=fine, fixed=fixed)
        lowest = ladder_set.widths(np.zeros_like(ladder_set.top))
        if meter.fits(lowest):
            return ladder_set, allowed
    raise _infeasible(meter, lowest, budget, fixed)


def _infeasible(meter: PriceMeter, lowest: Widths, budget: Budget, fixed: Mapping[int, int]) -> BudgetError:
    floor = {cost: float(meter.costs.evaluate(cost, lowest)) for cost in meter.costs.dense}
    pinned: dict[str, PinnedCost] = {}
    parts = []
    for cost, limit in meter.limits.items():
        floor_cost, dense_cost = floor[cost], meter.costs.dense[cost]
        verdict = "cannot be kept" if floor_cost > limit else "can be kept"
        times = f", {_times(dense_cost / floor_cost)} smaller than dense" if floor_cost > 0 else ""
        limit_text, floor_text = text_of(cost, limit), text_of(cost, floor_cost)
        parts.append(f"{cost} {budget.asked[cost]} (at most {limit_text}) {verdict}: the floor is {floor_text}{times}")
        if fixed and floor_cost > limit:
            without = lowest.copy()
            without[list(fixed)] = 1
            held = (floor_cost - float(meter.costs.evaluate(cost, without))) / dense_cost
            parts[-1] += f", of which {held:.0%} of dense are the widths that were asked for"
        share = meter.costs.pinned(cost, floor_cost) if floor_cost > limit else None
        if share is not None:
            pinned[cost] = share
    why = "".join(f". {str(share)[0].upper()}{str(share)[1:]}" for share in pinned.values() if share.amount)
    too_low = [cost for cost, limit in meter.limits.items() if floor[cost] > limit]
    factors = [factor for cost in too_low if (factor := factor_meant(budget.asked[cost])) is not None]
    hint = f" A plain number is an amount: did you mean {' and '.join(map(repr, factors))}?" if factors else ""
    message = f"no widths keep this budget.{hint} {'; '.join(parts)}. Ask for no less than the floor{why}"
    return BudgetError(message, floor, pinned)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


class _Reasons:
    """Why each group is as wide as it is, in words."""

    def __init__(
        self,
        *,
        dense: Widths,
        base: Widths,
        losses: Sequence[Floats],
        equations: Sequence[Pieces],
        allowed: Sequence[Widths],
        level: float,
        round_to: int,
        roomy: bool,
        adds_up: bool,
    ) -> None:
        self.dense, self.base, self.losses, self.allowed = dense, base, losses, allowed
        self.level, self.round_to, self.roomy, self.adds_up = level, round_to, roomy, adds_up
        self.linked = {g: members for members, _ in systems(equations, len(dense)) for g in members}

    def why(self, g: int, names: Sequence[str], widths: Widths) -> str:
        """One phrase for group ``g`` at its final width."""
        width, base = int(widths[g]), int(self.base[g])
        if self.roomy:
            return "kept at full width: the budget has room"
        fewest = int(np.argmax(self.losses[g] <= self.level))
        alone = int(self.allowed[g][int(np.searchsorted(self.allowed[g], fewest))])
        partners = [names[partner] for partner in self.linked[g] if partner != g]
        if partners and width > alone and width >= base > alone:
            return f"balanced with {', '.join(partners[:2])}" + (
                f" and {len(partners) - 2} more" if partners[2:] else ""
            )
        if width > base:
            whole = width == int(self.dense[g])
            return "kept at full width: the budget had room left" if whole else "widened to fill the budget"
        if width < base:
            return "narrowed for groups that lose more"
        return self._at_level(g, width, fewest)

    def _at_level(self, g: int, width: int, fewest: int) -> str:
        dense = int(self.dense[g])
        if width == dense:
            return "kept at full width: cuts lose too much"
        step = step_of(dense, self.round_to)
        if width < step:
            return f"limited by the budget, below the step of {step}"
        rounded = not self.adds_up and width != fewest
        return f"limited by the budget, rounded up to {width}" if rounded else "limited by the budget"
