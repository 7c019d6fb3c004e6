"""Checks of what ``rc.plan`` and ``rc.prune`` are given."""

from __future__ import annotations

from typing import Any

from reconvene.costs import Budget
from reconvene.errors import BudgetError
from reconvene.utils.arguments import Check, check_integer, check_model, check_seed, optional


def check_budget(name: str, value: Any) -> Budget:
    """Check: a ``Budget``; text and numbers do not say which cost they limit."""
    if isinstance(value, Budget):
        return value
    limit = f"{value}x" if isinstance(value, int) and value > 1 else value if isinstance(value, str | float) else "4x"
    raise BudgetError(
        f"{name}={value!r} is no budget: it does not say which cost it limits. Try: Budget(params={limit!r})"
    )


PLAN_CHECKS: dict[str, Check] = {
    "model": check_model,
    "budget": check_budget,
    "seed": check_seed,
    "round_to": optional(check_integer),
    "examples": optional(check_integer),
}
"""Check of each argument that ``rc.plan`` and ``rc.prune`` share."""
