"""Budgets as people write them, and the absolute limits they mean for one model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from reconvene.errors import BudgetError

Amount = str | int | float

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SECONDS = {"NS": 1e-9, "US": 1e-6, "ΜS": 1e-6, "MS": 1e-3, "S": 1.0}

# cost -> (factor per unit, words that may follow a unit, an example of an absolute value)
_UNITS: dict[str, tuple[Mapping[str, float], tuple[str, ...], str]] = {
    "params": (_COUNTS, ("", "PARAMS", "PARAMETERS"), "'1.5M'"),
    "macs": (_COUNTS, ("", "MACS", "MAC"), "'250MMACs'"),
    "size": (_BYTES, ("",), "'1MB'"),
    "peak_memory": (_BYTES, ("",), "'256KiB'"),
    "latency": (_SECONDS, ("",), "'5ms'"),
}
COSTS = tuple(_UNITS)
"""What a budget can limit."""
_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(\D*?)\s*\Z")


@dataclass(frozen=True)
class Limit:
    """One value understood: either a ``share`` of dense, or an absolute ``amount`` (weights, MACs, bytes, seconds)."""

    share: float | None = None
    amount: float | None = None

    def of(self, dense: float) -> float:
        """The absolute limit for a model that costs ``dense``."""
        return self.share * dense if self.share is not None else float(self.amount or 0.0)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits the smaller network must keep: any subset, all of them kept.

    ``params`` counts parameters, ``macs`` multiply-accumulates of one sample, ``size`` bytes of the weights file,
    ``peak_memory`` bytes of activations alive at once, ``latency`` seconds of one forward pass.

    Values read as people write them: ``"16x"`` (16 times smaller), ``0.25`` or ``"25%"`` (a quarter of dense),
    ``"1.5M"``, ``"250MMACs"``, ``"1MB"`` (10^6 bytes), ``"256KiB"`` (2^18 bytes), ``"5ms"``; a plain ``int`` is
    absolute: parameters, MACs or bytes. A ``float`` is always a share.

    Raises ``BudgetError``, saying how to write it, for a value that cannot be read, and for a budget that asks nothing.
    """

    params: Amount | None = None
    macs: Amount | None = None
    size: Amount | None = None
    peak_memory: Amount | None = None
    latency: Amount | None = None

    def __post_init__(self) -> None:
        if not self.asked:
            raise BudgetError(
                f"an empty budget asks for nothing. Give at least one of {', '.join(_UNITS)}: Budget(params='16x')"
            )
        for cost, value in self.asked.items():
            read(cost, value)

    @property
    def asked(self) -> dict[str, Amount]:
        """The values as written, without those not given: what to store beside a result."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {cost: value for cost, value in values.items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(f"{cost} {_spoken(value)}" for cost, value in self.asked.items())

    def limits(self, dense: Mapping[str, float]) -> dict[str, float]:
        """The absolute limit of every asked cost, for a model whose dense costs are ``dense``.

        A limit above dense is allowed: it is kept already. Raises ``BudgetError`` for a cost that ``dense`` does not
        hold: ``latency`` is in it only where a device profile says what layers take.
        """
        result = {}
        for cost, value in self.asked.items():
            if cost == "latency" and cost not in dense:
                raise BudgetError(
                    f"latency {_spoken(value)}: what a layer costs in time is known of no device here. rc.plan and "
                    "rc.prune measure this machine, or take device='profile.json' (reconvene device profile)"
                )
            if cost not in dense:
                raise BudgetError(f"no cost model for {cost!r}; there is one for: {', '.join(sorted(dense))}")
            result[cost] = read(cost, value).of(float(dense[cost]))
        return result


def read(cost: str, value: Amount) -> Limit:
    """Understand one ``value`` asked of ``cost``; ``BudgetError`` says how to write it when that is not possible."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _unreadable(cost, value, "it is neither a number nor text")
    if isinstance(value, float):
        return _share(cost, value, value)
    if isinstance(value, int):
        if cost == "latency":
            raise _unreadable(cost, value, "a plain number has no unit of time")
        return _amount(cost, value, value)
    return _text(cost, value)


def _text(cost: str, value: str) -> Limit:
    match = _NUMBER.match(value)
    if match is None:
        raise _unreadable(cost, value, "no number followed by a unit was found")
    number, unit = float(match[1]), match[2].upper()
    if unit in ("X", "×"):
        if number < 1:
            raise _unreadable(cost, value, "'Nx' means N times smaller, so N is at least 1")
        return Limit(share=1 / number)
    if unit == "%":
        return _share(cost, value, number / 100)
    if not unit and "." in match[1] and "E" not in match[1].upper():
        return _share(cost, value, number)
    return _amount(cost, value, number * _factor(cost, value, unit))


def _factor(cost: str, value: str, unit: str) -> float:
    factors, unit_names, _ = _UNITS[cost]
    for unit_name in unit_names:
        if unit.endswith(unit_name):
            prefix = unit[: len(unit) - len(unit_name)].strip()
            if prefix in factors:
                return factors[prefix]
    if not unit and "B" in factors:
        return 1.0
    raise _unreadable(cost, value, f"unit {unit!r} is not one of {', '.join(u for u in factors if u)}")


def _share(cost: str, value: Amount, share: float) -> Limit:
    if not 0 < share <= 1:
        raise _unreadable(cost, value, "a share of dense lies above 0 and up to 1")
    return Limit(share=share)


def _amount(cost: str, value: Amount, amount: float) -> Limit:
    if not (amount > 0 and math.isfinite(amount)):
        raise _unreadable(cost, value, "a limit is above 0 and finite")
    return Limit(amount=float(amount))


def _unreadable(cost: str, value: object, why: str) -> BudgetError:
    return BudgetError(
        f"{cost}={value!r} cannot be read: {why}. "
        f"Write '16x' (16 times smaller), 0.25 (a quarter of dense) or {_UNITS[cost][2]} (absolute)"
    )


def _spoken(value: Amount) -> str:
    return f"{value:g} of dense" if isinstance(value, float) else str(value)
