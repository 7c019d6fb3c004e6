"""The plans that made a network out of a dense one, noted on the network itself for whoever saves or cuts it next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from reconvene.surgery.plan import Plan

_PLAN = "reconvene_plan"
_EARLIER = "reconvene_earlier_plans"
NOTES = frozenset({_PLAN, _EARLIER})
"""Attributes that hold the plans; no parts of the module."""


def plans_of(network: nn.Module) -> tuple[Plan, ...]:
    """Every plan that was applied since the dense network, in order; nothing for a dense one."""
    plan = getattr(network, _PLAN, None)
    return () if plan is None else (*getattr(network, _EARLIER, ()), plan)


def note_plans(network: nn.Module, plans: Sequence[Plan]) -> None:
    """Have the network carry these plans: the last as ``reconvene_plan``, which is None without any."""
    # object.__setattr__, because these are no parts of the module.
    object.__setattr__(network, _PLAN, plans[-1] if plans else None)
    object.__setattr__(network, _EARLIER, tuple(plans[:-1]))
