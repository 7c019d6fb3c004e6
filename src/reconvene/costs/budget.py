"""Budgets as people write them, and the absolute limits they mean for one model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from reconvene.costs.registry import COSTS, cost_named
from reconvene.errors import BudgetError

BudgetValue = str | int | float

_LARGEST_FACTOR = 1000
_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(\D*?)\s*\Z")


@dataclass(frozen=True)
class Limit:
    """One value understood: either a ``share`` of dense, or an absolute ``amount`` (weights, MACs, bytes, seconds)."""

    share: float | None = None
    amount: float | None = None

    def of(self, dense: float) -> float:
        """The absolute limit for a model that costs ``dense``."""
        return self.share * dense if self.share is not None else float(self.amount or 0.0)


class Budget:
    """Limits of the smaller network. Set any subset; the result meets all of them.

    ``params`` counts parameters, ``macs`` multiply-accumulates of one sample, ``size`` bytes of the weights file,
    ``peak_memory`` bytes of activations alive at once, ``latency`` seconds of one forward pass; ``other`` costs are
    those that were added to ``reconvene.costs.COSTS``.

    Values read as people write them: ``"16x"`` (16 times smaller), ``0.25`` or ``"25%"`` (a quarter of dense),
    ``"1.5M"``, ``"250MMACs"``, ``"1MB"`` (10^6 bytes), ``"256KiB"`` (2^18 bytes), ``"5ms"``; a plain ``int`` is
    absolute: parameters, MACs or bytes. A ``float`` is always a share.

    >>> import reconvene as rc
    >>> rc.Budget(params="16x", latency="5ms")
    Budget(params='16x', latency='5ms')

    Raises:
        BudgetError: a value cannot be read (the message says how to write it), or the budget asks nothing.
        UnknownNameError: no such cost; the message lists the costs.
    """

    def __init__(
        self,
        *,
        params: BudgetValue | None = None,
        macs: BudgetValue | None = None,
        size: BudgetValue | None = None,
        peak_memory: BudgetValue | None = None,
        latency: BudgetValue | None = None,
        **other: BudgetValue | None,
    ) -> None:
        named = {"params": params, "macs": macs, "size": size, "peak_memory": peak_memory, "latency": latency, **other}
        named_limits = {cost: value for cost, value in named.items() if value is not None}
        for cost, value in named_limits.items():
            read_budget(cost, value)
        if not named_limits:
            raise BudgetError(
                f"an empty budget asks for nothing. Give at least one of {', '.join(COSTS)}: Budget(params='16x')"
            )
        self._asked = {cost: named_limits[cost] for cost in COSTS if cost in named_limits}

    @property
    def asked(self) -> dict[str, BudgetValue]:
        """The values as written, without those not given: what to store beside a result."""
        return dict(self._asked)

    @property
    def needs_data(self) -> bool:
        """Whether a cost that it limits is one on data."""
        return any(cost_named(cost).needs_data for cost in self._asked)

    def __contains__(self, cost: object) -> bool:
        return cost in self._asked

    def __getattr__(self, name: str) -> BudgetValue | None:
        if name.startswith("_") or name not in COSTS:
            raise AttributeError(f"a budget has no {name!r}; it can limit {', '.join(COSTS)}")
        return self._asked.get(name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and self._asked == other._asked

    def __hash__(self) -> int:
        return hash(tuple(self._asked.items()))

    def __repr__(self) -> str:
        return f"Budget({', '.join(f'{cost}={value!r}' for cost, value in self._asked.items())})"

    def __str__(self) -> str:
        return ", ".join(f"{cost} {_spoken(value)}" for cost, value in self._asked.items())

    def limits(self, dense: Mapping[str, float]) -> dict[str, float]:
        """The absolute limit of every asked cost, for a model whose dense costs are ``dense``.

        A limit above dense is allowed: it is kept already. Raises ``BudgetError`` for a cost that ``dense`` does not
        hold: ``latency`` is in it only where a device profile says what layers take.
        """
        result = {}
        for cost, value in self._asked.items():
            if cost not in dense:
                cost_models = f"there is a cost model for: {', '.join(sorted(dense))}"
                raise BudgetError(f"{cost} {_spoken(value)}: {cost_named(cost).unknown or cost_models}")
            result[cost] = read_budget(cost, value).of(float(dense[cost]))
        return result


def factor_meant(value: BudgetValue) -> str | None:
    """``4x`` for a plain ``4``, which is an amount (four parameters) and may not be meant so; ``None`` otherwise."""
    text = str(value).strip()
    return (
        f"{text}x" if not isinstance(value, float) and text.isdecimal() and 1 < int(text) <= _LARGEST_FACTOR else None
    )


def read_budget(cost: str, value: BudgetValue) -> Limit:
    """Understand one ``value`` asked of ``cost``; ``BudgetError`` says how to write it when that is not possible."""
    unit = cost_named(cost).unit
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _unreadable(cost, value, "it is neither a number nor text")
    if isinstance(value, float):
        return _share(cost, value, value)
    if isinstance(value, int):
        if not unit.bare:
            raise _unreadable(cost, value, f"the number has no unit. Units: {unit.names}")
        return _amount(cost, value, value)
    return _text(cost, value)


def _text(cost: str, value: str) -> Limit:
    match = _NUMBER.match(value)
    if match is None:
        raise _unreadable(cost, value, "it is not a number with or without a unit")
    number, unit_name = float(match[1]), match[2]
    if unit_name in ("x", "X", "×"):
        if number < 1:
            raise _unreadable(cost, value, "'Nx' means N times smaller, so N is at least 1")
        return Limit(share=1 / number)
    if unit_name == "%":
        return _share(cost, value, number / 100)
    if not unit_name and "." in match[1] and "E" not in match[1].upper():
        return _share(cost, value, number)
    unit = cost_named(cost).unit
    factor = unit.factor(unit_name)
    if factor is None:
        trouble = f"{unit_name!r} is not a unit" if unit_name else "the number has no unit"
        raise _unreadable(cost, value, f"{trouble}. Units: {unit.names}")
    return _amount(cost, value, number * factor)


def _share(cost: str, value: BudgetValue, share: float) -> Limit:
    if not 0 < share <= 1:
        raise _unreadable(cost, value, "a share of dense lies above 0 and up to 1")
    return Limit(share=share)


def _amount(cost: str, value: BudgetValue, amount: float) -> Limit:
    if not (amount > 0 and math.isfinite(amount)):
        raise _unreadable(cost, value, "a limit is above 0 and finite")
    return Limit(amount=float(amount))


def _unreadable(cost: str, value: object, why: str) -> BudgetError:
    return BudgetError(
        f"{cost}={value!r} cannot be read: {why}. "
        f"Write '16x' (16 times smaller), 0.25 (a quarter of dense) or {cost_named(cost).unit.example} (absolute)"
    )


def _spoken(value: BudgetValue) -> str:
    return f"{value:g} of dense" if isinstance(value, float) else str(value)
