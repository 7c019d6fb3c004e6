"""What ``rc.plan`` and ``rc.prune`` are given: checks of arguments, and budgets in files of settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from reconvene.costs import COSTS, Budget
from reconvene.devices import Profile
from reconvene.errors import ArgumentError, BudgetError, DeviceError
from reconvene.utils.arguments import ArgumentCheck, check_integer, check_model, check_seed, optional
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Settings, name_of


def check_budget(name: str, value: Any) -> Budget:
    """Check: a ``Budget``; text and numbers do not say which cost they limit."""
    if isinstance(value, Budget):
        return value
    limit = f"{value}x" if isinstance(value, int) and value > 1 else value if isinstance(value, str | float) else "4x"
    raise BudgetError(
        f"{name}={value!r} is not a budget: it does not say which cost it limits. Try: Budget(params={limit!r})"
    )


def check_layer_names(name: str, value: Any) -> tuple[str, ...]:
    """Check: names or patterns of layers, several of them."""
    if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(v, str) for v in value):
        raise ArgumentError(f"{name}={value!r} is not a list of names of layers. Try: {name}=['head', 'stem.*']")
    return tuple(value)


def check_layer_widths(name: str, value: Any) -> dict[str, float]:
    """Check: a share or a count by the name or pattern of a layer."""
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{name}={value!r} does not say which layers. Try: {name}={{'layer1': 0.5}}")
    return dict(value)


def check_steps(name: str, value: Any) -> int:
    """Check: a whole number of at least 1."""
    steps = check_integer(name, value)
    if steps < 1:
        raise ArgumentError(f"{name}={value!r}: there is one step at least")
    return steps


def check_device(name: str, value: Any) -> Any:
    """Check: a profile, or the name or file of one."""
    if not isinstance(value, str | os.PathLike | Profile):
        raise DeviceError(f"{name}={value!r} is not a device. Give a profile, its file, its name, or 'here'")
    return value


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """Check: several names; one name stands for itself."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable) or not all(isinstance(entry, str) for entry in names):
        raise ArgumentError(f"{name}={value!r} is not a list of names. Try: {name}=['onnx']")
    return tuple(names)


PLAN_CHECKS: dict[str, ArgumentCheck] = {
    "model": check_model,
    "budget": check_budget,
    "seed": check_seed,
    "keep": check_layer_names,
    "widths": check_layer_widths,
    "round_to": optional(check_integer),
    "examples": optional(check_integer),
    "device": optional(check_device),
    "size_of": check_names,
}
"""Check of each argument that ``rc.plan`` and ``rc.prune`` share."""


def budget_argument(settings: Settings, place: Place) -> Budget:
    """The budget of a table's costs, each read by itself, so that a mistake is known by its line."""
    limits = {cost: value for cost, value in settings.table(place).items() if cost in COSTS}
    for cost, value in limits.items():
        try:
            Budget(**{cost: value})
        except BudgetError as error:
            settings.fail((*place, cost), f"{name_of(place)}: {error}")
    if not limits:
        settings.fail(place, f"{name_of(place)} has no budget. Give at least one of {', '.join(COSTS)}")
    return Budget(**limits)
