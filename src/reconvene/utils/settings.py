"""Settings: plain values that are read into the dataclass which declares them; an error names the place and the line.

A dataclass is all there is to write: names, types and usual values of its fields are those of the file. Types are
strict: text is no number, and true is no 1. ``reconvene.utils.settings_files`` reads them from YAML and TOML.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Annotated, Any, NoReturn, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from reconvene.errors import ReconveneError, suggestion
from reconvene.utils.invalid_values import Place, first_invalid, shown
from reconvene.utils.schema import adapter_of

_T = TypeVar("_T")


def one_of(names: Collection[str] | Callable[[], Collection[str]]) -> AfterValidator:
    """Of a text, for ``Annotated``: one of these names, as they are when a value is read."""

    def check(value: str) -> str:
        choices = names() if callable(names) else names
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(sorted(choices))}.{suggestion(value, choices)}")
        return value

    return AfterValidator(check)


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    # What a validator of ours hands on is no JSON any more: then strict means that a list is no tuple.
    return tuple(value) if isinstance(value, list) else value


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if again := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{again[0]!r} is named twice")
    return names


def _sizes(value: Any) -> Any:
    if not isinstance(value, str):
        return _as_tuple(value)
    sizes = value.lower().split("x")
    if not all(size.isdecimal() for size in sizes):
        raise ValueError(f"{value!r} is not a shape such as 3x32x32")
    return tuple(int(size) for size in sizes)


Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
LISTED, DISTINCT = BeforeValidator(_listed), AfterValidator(_each_once)
"""Of a tuple of names, for ``Annotated``: one name may stand for a list of one; no name stands there twice."""
Names = Annotated[tuple[str, ...], Field(min_length=1), DISTINCT, LISTED]
Shape = Annotated[tuple[Positive, ...], Field(min_length=1), BeforeValidator(_sizes)]
"""``3x32x32``, or a list of sizes."""
Argument = bool | int | float | str
"""An argument of a model's constructor."""


class Settings:
    """Plain values of one file or one call, and the lines they stand in.

    Args:
        values: what stands at the top; a table.
        source: what errors call it, mostly the path of the file.
        error: what is raised.
        line_of: the line of a place, from 1; ``None`` where it has none.
    """

    def __init__(
        self,
        values: Any,
        *,
        source: str,
        error: type[ReconveneError],
        line_of: Callable[[Place], int | None] = lambda place: None,
    ) -> None:
        """Fail at what JSON cannot hold: a date, a number that is not finite or beyond 64 bits."""
        self.values, self.source, self._error, self._line_of = values, source, error, line_of
        self._require_plain(values, ())

    def with_values(self, values: Any) -> Settings:
        """Other values in the same places: what was written in short, written out."""
        return Settings(values, source=self.source, error=self._error, line_of=self._line_of)

    def fail(self, place: Place, why: str) -> NoReturn:
        """Raise the file's error for what stands at a place."""
        raise self._error(f"{self.where(place)}: {why}")

    def where(self, place: Place) -> str:
        """The file and the line of a place: ``fleet.yaml, line 3``."""
        # What is missing has no line: then the table around it has.
        lines = (self._line_of(place[:length]) for length in range(len(place), 0, -1) or (0,))
        line = next(filter(None, lines), None)
        return f"{self.source}{f', line {line}' if line else ''}"

    def at(self, place: Place) -> Any:
        """The value at a place."""
        value = self.values
        for part in place:
            value = value[part]
        return value

    def table(self, place: Place) -> Mapping[str, Any]:
        """The table at a place; it fails where something else stands there."""
        value = self.at(place)
        if not isinstance(value, Mapping):
            self.fail(place, f"{name_of(place)} is not a table of names and values, but {shown(value)}")
        return value

    def tables(self, name: str) -> list[Place]:
        """The places of the tables in a list at the top; none where the file does not have it."""
        value = self.table(()).get(name, [])
        if not isinstance(value, list | tuple):
            self.fail((name,), f"{name} is a list of tables: in TOML each begins with [[{name}]], in YAML with a dash")
        places: list[Place] = [(name, index) for index in range(len(value))]
        for place in places:
            self.table(place)
        return places

    def read(self, schema: type[_T], place: Place = (), *, besides: Collection[str] = ()) -> _T:
        """The dataclass that a table of the file describes. ``besides``: further names in it, read elsewhere."""
        self.require_known(place, {*_names_of(schema), *besides})
        return self.check(schema, {name: value for name, value in self.at(place).items() if name not in besides}, place)

    def check(self, schema: type[_T], value: Any, place: Place) -> _T:
        """The dataclass, or the value of another type, that a value describes which stands at a place."""
        try:
            # As JSON, in which a list is a tuple's only form: strict Python input would want a tuple.
            checked: _T = adapter_of(cast("Any", schema)).validate_json(json.dumps(value), strict=True)
            return checked
        except ValidationError as failure:
            invalid = first_invalid(failure, json.loads(json.dumps(value)))
            whole = (*place, *invalid.place)
            self.fail(whole, invalid.sentence(name_of(whole)))

    def require_known(self, place: Place, names: Collection[str]) -> None:
        """Fail at a name in a table that is none of these."""
        for name in self.table(place):
            if name not in names:
                hint = suggestion(name, names) or f" It may have: {', '.join(sorted(names))}"
                self.fail((*place, name), f"{name_of(place)} has no {name!r}.{hint}")

    def _require_plain(self, value: Any, place: Place) -> None:
        if isinstance(value, Mapping):
            for name, entry in value.items():
                self._require_plain(entry, (*place, name))
        elif isinstance(value, list | tuple):
            for index, entry in enumerate(value):
                self._require_plain(entry, (*place, index))
        elif isinstance(value, float) and not math.isfinite(value):
            self.fail(place, f"{name_of(place)} {value} is not finite")
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            self.fail(place, f"{name_of(place)} {shown(value)} is beyond 64 bits")
        elif not (value is None or isinstance(value, str | int | float)):
            self.fail(place, f"{name_of(place)} is a {type(value).__name__}: write text in quotes")


def _names_of(schema: Any) -> set[str]:
    return {entry.name for entry in fields(schema)}


def holds(value: Any, place: Place) -> bool:
    """Whether plain values have something at a place."""
    for part in place:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def name_of(place: Place) -> str:
    """A place in words: ``devices.chip`` or ``entry 2 of arms: criterion``."""
    text, dot = "", ""
    for part in place:
        text, dot = (f"entry {part + 1} of {text}", ": ") if isinstance(part, int) else (f"{text}{dot}{part}", ".")
    return text or "the file"
