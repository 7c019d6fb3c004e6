"""Widths by other means, each as curves of its own for the one solver: so all keep budgets exactly as ours do.

A curve says how much pressure it takes to cut a group to ``k`` channels; the solver raises the pressure, the same for
all groups, until the budget is kept. No trades and no filling follow, and no rounding to multiples: a baseline's widths
are its own. (Rounded, uniform widths of a small network are not uniform any more, and filled, they are not either.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from reconvene import criteria
from reconvene.allocation import allocate
from reconvene.costs import Budget
from reconvene.costs.model import CostModel
from reconvene.criteria import Saliency
from reconvene.errors import UnknownNameError
from reconvene.evaluator import Curve, Sensitivity
from reconvene.evaluator.channels import channel_scores
from reconvene.evaluator.density import invert
from reconvene.experiments.context import PreparedRun, Setting, apply_plan
from reconvene.planning.assemble import Choice, chosen, plan_from_choice, timed
from reconvene.structure import Group, Structure
from reconvene.surgery import Accounting, Plan, PlanRow, Provenance
from reconvene.surgery.ranges import to_text
from reconvene.utils.arrays import Floats, Ints

Curves = Callable[[Structure, CostModel], list[Floats]]
# How far down PreCrop looks beyond the budget: layers' densities are followed to this share of it.
BELOW = 0.25
NARROWEST, WIDEST = 1 / 2, 2.0
_WHOLE = 1e3
"""Pressure, in nats of share, that no cut group meets: whoever starts from it is cut last."""


def uniform(setting: Setting) -> PreparedRun:
    """The same share of channels in every group: ``loss(k) = log(width / k)``."""
    return _from(setting, "uniform", lambda structure, costs: [log_share(g.width) for g in structure.prunable])


def random_widths(setting: Setting) -> PreparedRun:
    """Shares ``s ** u`` with ``log u`` uniform, drawn per group from the seed."""
    rng = np.random.Generator(np.random.PCG64([setting.seed, 1]))

    def curves(structure: Structure, costs: CostModel) -> list[Floats]:
        groups = structure.prunable
        pace = np.exp(rng.uniform(np.log(NARROWEST), np.log(WIDEST), len(groups)))
        return [log_share(g.width) / u for g, u in zip(groups, pace, strict=True)]

    return _from(setting, "random", curves)


def precrop(setting: Setting, *, filled: bool = False) -> PreparedRun:
    """PreCrop-style (2203.02549): a layer of density ``d`` keeps the share ``sqrt(d)`` of its output channels.

    Coupled groups keep the geometric mean over the layers that produce them. The paper's text gives no code for
    residual networks; that mean is our choice. ``filled``: widths are rounded, traded and filled up as ours are.
    """
    criterion = str(setting.options["criterion"])

    def curves(structure: Structure, costs: CostModel) -> list[Floats]:
        saliency = _score(setting, criterion, _tightest(setting.asked, costs) * BELOW)
        nats = -np.log(np.asarray(saliency.levels, dtype=np.float64))
        return [invert(nats, _depth(group, saliency), group.width) for group in structure.prunable]

    plan = plan_from(setting, f"precrop {criterion}", curves, step=setting.round_to if filled else 1, plain=not filled)
    return apply_plan(setting, plan, rectify=str(setting.options["rectify"]))


def channels(setting: Setting) -> PreparedRun:
    """Channel scores under one threshold for the whole network (SNAP, 3SP): ``loss(k)`` is the best score cut.

    ``normalised`` divides a channel's score by what the budget's tightest cost saves when it leaves. Widths are rounded
    and filled up as ours are, since one threshold alone leaves whole layers a single channel.
    """
    criterion, normalised = str(setting.options["criterion"]), bool(setting.options["normalised"])

    def curves(structure: Structure, costs: CostModel) -> list[Floats]:
        scores = channel_scores(structure.prunable, _score(setting, criterion).scores)
        if normalised:
            saved = _saved(structure, costs, _tightest_cost(setting.asked, costs))
            scores = [score / price for score, price in zip(scores, saved, strict=True)]
        return [thresholded(score) for score in scores]

    plan = plan_from(setting, f"channels {criterion}", curves, step=setting.round_to, plain=False)
    return apply_plan(setting, plan, rectify=str(setting.options["rectify"]))


def resilient(setting: Setting) -> PreparedRun:
    """The idea that the paper's abstract states: layers that an unstructured mask leaves dense stay whole.

    Groups are ranked by the density that the criterion's mask leaves to the layers that produce them, at the budget's
    share of the weights. The least dense ones are cut, all to the same share of their channels: the fewest groups with
    which the budget can be kept while none falls below ``share``. The others stay as they are, weights included.
    """
    criterion, least_share = str(setting.options["criterion"]), float(setting.options["share"])

    def curves(structure: Structure, costs: CostModel) -> list[Floats]:
        density = _tightest(setting.asked, costs)
        saliency = _score(setting, criterion, density)
        level = int(np.argmin(np.abs(np.asarray(saliency.levels) - density)))
        depths = [float(_depth(group, saliency)[level]) for group in structure.prunable]
        order = np.argsort(-np.asarray(depths), kind="stable")
        cut = set(order[: _fewest(order, costs, setting.asked, structure.widths, least_share)].tolist())
        return [log_share(g.width) + (0.0 if n in cut else _WHOLE) for n, g in enumerate(structure.prunable)]

    plan = plan_from(setting, f"resilient {criterion}", curves, step=setting.round_to, plain=False)
    return apply_plan(setting, plan, rectify=str(setting.options["rectify"]))


def cut_one_group(setting: Setting) -> PreparedRun:
    """One group alone to a share of its channels, its first ones; all others stay whole. No budget is asked."""
    name, share = str(setting.options["group"]), float(setting.options["share"])

    def choose(structure: Structure, costs: CostModel, timings: dict[str, float]) -> Choice:
        names = [group.name for group in structure.prunable]
        if name not in names:
            raise UnknownNameError("prunable group", name, names)
        widths = structure.widths
        g = names.index(name)
        widths[g] = max(1, round(share * int(widths[g])))
        keep = [np.arange(width, dtype=np.int64) for width in widths]
        rows = [
            PlanRow(group.name, group.width, len(k), to_text(k))
            for group, k in zip(structure.prunable, keep, strict=True)
        ]
        paid = {"dense": dict(costs.dense), "pruned": costs.exact_all(widths)}
        return Choice(keep, rows, Provenance(criterion="hand"), Accounting(paid))

    plan = plan_from_choice(setting.model, setting.inputs, choose, seed=setting.seed)
    return apply_plan(setting, plan, rectify=str(setting.options["rectify"]))


def plan_from(setting: Setting, name: str, curves: Curves, *, step: int = 1, plain: bool = True) -> Plan:
    """The plan of the widths, multiples of ``step``, that keep the budget; if not ``plain``, traded and filled."""

    def choose(structure: Structure, costs: CostModel, timings: dict[str, float]) -> Choice:
        with timed(timings, "sensitivity"):
            sensitivities = _sensitivity(structure.prunable, curves(structure, costs), name)
        with timed(timings, "allocation"):
            allocation = allocate(structure, sensitivities, costs, setting.asked, round_to=step, plain=plain)
        return chosen(sensitivities, allocation, setting.asked)

    return plan_from_choice(setting.model, setting.inputs, choose, seed=setting.seed, cost_model=setting.cost_model)


def _sensitivity(groups: Sequence[Group], losses: Sequence[Floats], name: str) -> Sensitivity:
    """Curves as an evaluator would hand them on; without scores, of every group the first channels stay."""
    curves = []
    for group, loss in zip(groups, losses, strict=True):
        final = loss.copy()
        final[0], final[-1] = np.inf, 0.0
        curves.append(Curve(group.name, group.width, final, None, None, None, float(final[1])))
    return Sensitivity(name, name, "pressure", 1.0, tuple(curves))


def log_share(width: int) -> Floats:
    """``log(width / k)`` for ``k`` from 0 to ``width``; the first is infinite."""
    counts = np.arange(width + 1, dtype=np.float64)
    return np.log(width / np.maximum(counts, 1e-300))


def thresholded(score: Floats) -> Floats:
    """``loss[k]``: the highest score among the channels that leave when the best ``k`` stay."""
    best = np.maximum(np.sort(score)[::-1], 0.0)
    return np.concatenate([best, [0.0]])


def _from(setting: Setting, name: str, curves: Curves) -> PreparedRun:
    plan = plan_from(setting, name, curves)
    return apply_plan(setting, plan, rectify=str(setting.options["rectify"]))


def _score(setting: Setting, criterion: str, density: float | None = None) -> Saliency:
    """Scores, and levels down to a density where one is given."""
    return criteria.score(
        setting.model,
        setting.inputs,
        criterion,
        data=setting.samples(criterion),
        seed=setting.seed,
        density=max(density or 0.0, 1e-4),
        levels=density is not None,
    )


def _depth(group: Group, saliency: Saliency) -> Floats:
    """``-log`` of the share of channels kept, per level."""
    producers = [s.parameter for s in group.slots if s.dim == 0 and s.parameter in saliency.scores]
    touching = producers or [name for name in group.parameters if name in saliency.scores]
    if not touching:
        return np.zeros(len(saliency.levels))
    lowest_densities = [0.5 / saliency.scores[name].numel() for name in touching]
    logs = [
        np.log(np.maximum(saliency.densities[name], low)) for name, low in zip(touching, lowest_densities, strict=True)
    ]
    return np.asarray(-0.5 * np.mean(logs, axis=0), dtype=np.float64)


def _tightest(budget: Budget, costs: CostModel) -> float:
    limits = budget.limits({name: float(value) for name, value in costs.dense.items()})
    return min(limit / costs.dense[name] for name, limit in limits.items())


def _tightest_cost(budget: Budget, costs: CostModel) -> str:
    limits = budget.limits({name: float(value) for name, value in costs.dense.items()})
    return min(limits, key=lambda name: limits[name] / costs.dense[name])


def _fewest(order: Ints, costs: CostModel, budget: Budget, dense: Ints, share: float) -> int:
    """How many groups of ``order``, from the first on, keep the budget at this share of their channels; at most all."""
    limits = budget.limits({name: float(value) for name, value in costs.dense.items()})
    widths = dense.copy()
    for count, group in enumerate(order, start=1):
        widths[group] = max(1, int(np.ceil(share * dense[group])))
        if all(costs.evaluate(name, widths) <= limit for name, limit in limits.items()):
            return count
    return len(order)


def _saved(structure: Structure, costs: CostModel, cost: str) -> list[float]:
    """What one channel of each group costs in the dense network; at least one, for groups that are free."""
    saved = []
    for g in range(len(structure.prunable)):
        widths = structure.widths
        widths[g] -= 1
        saved.append(max(1.0, float(costs.dense[cost] - costs.evaluate(cost, widths))))
    return saved
