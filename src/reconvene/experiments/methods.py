"""The arms of a comparison by name: each turns the same untrained network into what is then trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from reconvene import criteria
from reconvene.costs import listed_costs, read_budget
from reconvene.errors import BudgetError, ExperimentError, UnknownNameError
from reconvene.experiments import baselines, quantised, search, torch_pruning, trained
from reconvene.experiments.context import PreparedRun, Setting, apply_plan
from reconvene.experiments.masked import put_on
from reconvene.experiments.options import (
    CRITERION_OR_NONE,
    OPTION_TYPES,
    TRAINED_TYPES,
    Options,
    epochs_before_tuning,
    epochs_of_dense,
    require_read_criterion,
    require_tuning,
)
from reconvene.planning.assemble import timed
from reconvene.planning.feedback import plan_within
from reconvene.planning.session import Planner


@dataclass(frozen=True)
class Arm:
    """One way to get a network.

    ``options``: what it can be told, with the usual values. ``budgets``: whether it is asked to keep one; ``needs``:
    the cost without which a budget means nothing to it. ``types``: of options that are not as ``OPTION_TYPES`` says;
    ``check``: of all options and the epochs together, raises ExperimentError.
    """

    prepare: Callable[[Setting], PreparedRun]
    options: dict[str, Any] = field(default_factory=dict)
    budgets: bool = True
    needs: str | None = None
    types: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Options, int], object] = lambda options, epochs: None

    def takes(self, budget: Mapping[str, Any]) -> bool:
        """Whether a run under this budget makes sense."""
        return self.needs is None or self.needs in budget

    def type_of(self, option: str) -> Any:
        """What values of an option are, for ``Settings.check``."""
        return self.types.get(option) or OPTION_TYPES.get(option) or type(self.options[option])


def _dense(setting: Setting) -> PreparedRun:
    """The network as it is."""
    return PreparedRun(setting.model, {}, setting.epochs)


def ours(setting: Setting) -> PreparedRun:
    """Reconvene: sensitivity by an evaluator, of a criterion if one is named, a water level, rectification."""
    criterion = str(setting.options["criterion"]) or None
    data = setting.samples(criterion) if criterion else None
    evaluator = str(setting.options["evaluator"])
    planner = Planner(setting.model, setting.inputs, criterion, data, setting.seed, evaluator=evaluator)
    costs = setting.costs or listed_costs()
    plan = plan_within(planner, setting.asked, costs, round_to=setting.round_to, refine=False)
    return apply_plan(setting, plan, rectify=str(setting.options["rectify"]))


def unstructured(setting: Setting) -> PreparedRun:
    """Masks that leave as many parameters as the budget allows, in the dense network's shapes, kept while training."""
    criterion, layerwise = str(setting.options["criterion"]), str(setting.options["layerwise"])
    total = sum(parameter.numel() for parameter in setting.model.parameters())
    requested = setting.asked.asked["params"]
    limit = read_budget("params", requested).of(total)
    scored = sum(weight.numel() for weight in criteria.weights(setting.model).values())
    # What is not scored (norms, biases) stays, and counts.
    left = limit - (total - scored)
    if left < 1:
        raise BudgetError(f"params {requested}: norms and biases alone are {total - scored:,}. Ask for more")
    seconds: dict[str, float] = {}
    with timed(seconds, "masks"):
        masks = criteria.masks_at(
            setting.model,
            min(1.0, left / scored),
            criterion,
            example_inputs=setting.inputs,
            data=setting.samples(criterion),
            seed=setting.seed,
            layerwise=layerwise or None,
        )
    return PreparedRun(put_on(setting.model, masks), seconds, setting.epochs, masked=True)


OURS = {"criterion": "synflow", "evaluator": "fan_in", "rectify": "reinit"}


def _check_trained(options: Options, epochs: int) -> None:
    require_tuning(options, trained.TRAINED_OPTIONS)
    epochs_of_dense("trained", options, epochs)


def _check_cut(options: Options, epochs: int) -> None:
    if not options["group"]:
        raise ExperimentError("arm 'cut' needs the name of the group that it cuts, such as group = 'stem.0'")


ARMS: dict[str, Arm] = {
    "dense": Arm(_dense, budgets=False),
    "ours": Arm(
        ours,
        OURS,
        types={"criterion": CRITERION_OR_NONE},
        check=lambda options, epochs: require_read_criterion(options, OURS),
    ),
    "unstructured": Arm(unstructured, {"criterion": "synflow", "layerwise": ""}, needs="params"),
    "resilient": Arm(baselines.resilient, {"criterion": "synflow", "share": 0.125, "rectify": "reinit"}),
    "uniform": Arm(baselines.uniform, {"rectify": "reinit"}),
    "random": Arm(baselines.random_widths, {"rectify": "reinit"}),
    "precrop": Arm(baselines.precrop, {"criterion": "synflow", "rectify": "reinit"}),
    "precrop_filled": Arm(partial(baselines.precrop, filled=True), {"criterion": "synflow", "rectify": "reinit"}),
    "channels": Arm(baselines.channels, {"criterion": "synflow", "normalised": False, "rectify": "reinit"}),
    "nas": Arm(search.nas, search.SEARCH_OPTIONS),
    "trained": Arm(trained.trained, trained.TRAINED_OPTIONS, types=TRAINED_TYPES, check=_check_trained),
    "torch_pruning": Arm(
        torch_pruning.torch_pruning,
        torch_pruning.TORCH_PRUNING_OPTIONS,
        check=partial(epochs_of_dense, "torch_pruning"),
    ),
    "uniform_bits": Arm(quantised.uniform_bits, quantised.UNIFORM_OPTIONS, budgets=False, check=epochs_before_tuning),
    "pruned_then_quantised": Arm(
        quantised.pruned_then_quantised, quantised.UNIFORM_OPTIONS, check=epochs_before_tuning
    ),
    "joint_bits": Arm(quantised.joint_bits, quantised.JOINT_OPTIONS, check=epochs_before_tuning),
    "searched_bits": Arm(
        quantised.searched_bits,
        quantised.JOINT_OPTIONS,
        check=partial(epochs_before_tuning, least=quantised.LEAST_SEARCH),
    ),
    "cut": Arm(
        baselines.cut_one_group,
        {"group": "", "share": 0.125, "rectify": "reinit"},
        budgets=False,
        check=_check_cut,
    ),
}


def arm_named(name: str) -> Arm:
    """Look an arm up. Raises UnknownNameError with the names there are."""
    if name not in ARMS:
        raise UnknownNameError("arm", name, ARMS)
    return ARMS[name]
