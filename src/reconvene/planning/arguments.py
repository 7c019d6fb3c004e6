"""Checks of what ``rc.plan`` and ``rc.prune`` are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reconvene.costs import Budget
from reconvene.errors import ArgumentError, BudgetError
from reconvene.utils.arguments import Check, check_integer, check_model, check_seed, optional


def check_budget(name: str, value: Any) -> Budget:
    """Check: a ``Budget``; text and numbers do not say which cost they limit."""
    if isinstance(value, Budget):
        return value
    limit = f"{value}x" if isinstance(value, int) and value > 1 else value if isinstance(value, str | float) else "4x"
    raise BudgetError(
        f"{name}={value!r} is no budget: it does not say which cost it limits. Try: Budget(params={limit!r})"
    )


def check_layer_names(name: str, value: Any) -> tuple[str, ...]:
    """Check: names or patterns of layers, several of them."""
    if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(v, str) for v in value):
        raise ArgumentError(f"{name}={value!r} is no list of names of layers. Try: {name}=['head', 'stem.*']")
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


PLAN_CHECKS: dict[str, Check] = {
    "model": check_model,
    "budget": check_budget,
    "seed": check_seed,
    "keep": check_layer_names,
    "widths": check_layer_widths,
    "round_to": optional(check_integer),
    "examples": optional(check_integer),
}
"""Check of each argument that ``rc.plan`` and ``rc.prune`` share."""
