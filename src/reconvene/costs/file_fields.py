"""Entries of a cost file, checked; errors name the entry."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from reconvene.costs.formula import FUNCTIONS, AmountTable, Formula
from reconvene.costs.layer_rule import KINDS, SIZES, LayerRule
from reconvene.errors import CostFileError, suggestion

MOST_BITS = 16


def read_values(path: Path) -> dict[str, Any]:
    """The values of a TOML or JSON file. Raises CostFileError."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise CostFileError(f"the cost file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CostFileError(f"the cost file {path} is neither TOML nor JSON: {error}") from error
    if not isinstance(values, dict):
        raise CostFileError(f"the cost file {path} holds no sections")
    return values


def require_section(table: object, place: str) -> None:
    """Raise CostFileError for what is no section."""
    if not isinstance(table, Mapping):
        raise CostFileError(f"{place} is not a section")


def require_known(table: object, known: Collection[str], place: str) -> None:
    """Raise CostFileError for what is no section, and for entries that nobody reads."""
    require_section(table, place)
    assert isinstance(table, Mapping)
    for name in table:
        if name not in known:
            raise CostFileError(
                f"{place}: {name!r} is not an entry.{suggestion(name, list(known))} Known: {', '.join(known)}"
            )


def text(table: Mapping[str, Any], name: str, place: str) -> str:
    """A text that has to be there."""
    if not isinstance(table.get(name), str) or not table[name]:
        raise CostFileError(f"{place} needs {name!r}, a text")
    return str(table[name])


def bits(value: object, place: str) -> tuple[int, ...]:
    """Numbers of bits, ascending."""
    if not isinstance(value, list) or not value or not all(_is_bits(v) for v in value):
        raise CostFileError(f"{place}={value!r} is not a list of bits from 1 to {MOST_BITS}, such as [2, 4, 8]")
    return tuple(sorted(set(value)))


def bit_width(value: object, place: str) -> int:
    """One number of bits."""
    if not _is_bits(value):
        raise CostFileError(f"{place}={value!r} is not a number of bits from 1 to {MOST_BITS}, such as 8")
    assert isinstance(value, int)
    return value


def number_table(value: object, place: str) -> AmountTable:
    """A table of one or two levels as a mapping from a number, or a pair of numbers."""
    require_section(value, place)
    assert isinstance(value, Mapping)
    entries: dict[Any, float] = {}
    for key, entry in value.items():
        inner = {(_whole(key, place), _whole(k, place)): v for k, v in entry.items()} if _nested(entry) else None
        entries.update({_whole(key, place): entry} if inner is None else inner)
    for key, entry in entries.items():
        if not isinstance(entry, int | float) or isinstance(entry, bool) or not math.isfinite(entry):
            raise CostFileError(f"{place}: the entry of {key} is not a number, but {entry!r}")
    return entries


def layer_rule(table: Any, tables: Mapping[str, AmountTable], place: str) -> LayerRule:
    """One entry of a cost's ``layers``."""
    require_known(table, ("kinds", "kernels", "tile", "where", "amount", "per"), place)
    kinds = table.get("kinds")
    if not isinstance(kinds, list) or not kinds or not all(kind in KINDS for kind in kinds):
        raise CostFileError(f"{place}.kinds={kinds!r} is not a list of {', '.join(KINDS)}")
    tile = table.get("tile")
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 1):
        raise CostFileError(f"{place}.tile={tile!r} is not a number of output channels")
    names, where = list(SIZES), []
    require_section(table.get("where", {}), f"{place}.where")
    for name, formula in table.get("where", {}).items():
        if name in tables or name in FUNCTIONS:
            raise CostFileError(f"{place}.where.{name}: {name} is already a table or a function. Take another name")
        where.append((name, Formula(formula, names, tables, place=f"{place}.where.{name}")))
        names.append(name)
    if table.get("per", "sample") not in ("sample", "weight"):
        raise CostFileError(f"{place}.per={table['per']!r} is neither 'sample' nor 'weight'")
    if "amount" not in table:
        raise CostFileError(f"{place} needs 'amount', a formula")
    amount = Formula(table["amount"], names, tables, place=f"{place}.amount")
    return LayerRule(
        tuple(kinds), _kernels(table.get("kernels"), place), tile, tuple(where), amount, table.get("per") == "weight"
    )


def _kernels(value: object, place: str) -> tuple[tuple[int, ...], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(k, list) and all(map(_is_size, k)) for k in value):
        raise CostFileError(
            f"{place}.kernels={value!r} is not a list of kernels, such as [[3, 3], [1, 1]], with [] for linear layers"
        )
    return tuple(tuple(kernel) for kernel in value)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_bits(value: object) -> bool:
    return _is_size(value) and isinstance(value, int) and value <= MOST_BITS


def _nested(entry: object) -> bool:
    return isinstance(entry, Mapping)


def _whole(key: str, place: str) -> int:
    if not key.isdecimal():
        raise CostFileError(f"{place}: {key!r} is not a whole number")
    return int(key)
