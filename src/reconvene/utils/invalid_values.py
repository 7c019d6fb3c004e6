"""What is wrong with a value, in words: the one wording for pydantic's errors, in files that users and we write.

``expected a whole number, got text 'high'``; who raises the error puts the place before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]
"""Where a value stands: names of tables and positions in lists, from the top."""

_EXPECTED: Mapping[str, str] = {
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "a list"),
    **dict.fromkeys(("dict_type", "dataclass_type", "model_attributes_type"), "names and values"),
    "none_required": "null",
    "union_tag_not_found": "names and values that say their kind",
}
_BOUND: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda bound: f"at least {_number(bound['ge'])}",
    "greater_than": lambda bound: f"more than {_number(bound['gt'])}",
    "less_than_equal": lambda bound: f"at most {_number(bound['le'])}",
    "less_than": lambda bound: f"less than {_number(bound['lt'])}",
    "too_long": lambda bound: f"at most {_counted(bound['max_length'], 'entry', 'entries')}",
    "too_short": lambda bound: f"at least {_counted(bound['min_length'], 'entry', 'entries')}",
    "string_too_long": lambda bound: f"at most {_counted(bound['max_length'], 'character', 'characters')}",
    "string_too_short": lambda bound: f"at least {_counted(bound['min_length'], 'character', 'characters')}",
    "string_pattern_mismatch": lambda bound: f"text of the form {bound['pattern']}",
    "literal_error": lambda bound: str(bound["expected"]),
    "union_tag_invalid": lambda bound: str(bound["expected_tags"]),
}


@dataclass(frozen=True)
class InvalidValue:
    """The first value that does not fit: its place, and the problem in words; ``more`` values have problems too."""

    place: Place
    problem: str
    more: int

    def sentence(self, name: str) -> str:
        """The problem of the value that is called ``name``; no name: the whole."""
        separator = "" if not name else " " if self.problem == _MISSING else ": "
        return f"{name}{separator}{self.problem}{f' (and {self.more} more)' if self.more else ''}"


def first_invalid(failure: ValidationError, value: Any) -> InvalidValue:
    """The first of the values inside ``value`` that pydantic refuses."""
    by_place: dict[Place, list[ErrorDetails]] = {}
    for error in failure.errors(include_url=False):
        by_place.setdefault(_place(error, value), []).append(error)
    place, errors = next(iter(by_place.items()))
    return InvalidValue(place, _problem(errors), len(by_place) - 1)


def _place(error: ErrorDetails, value: Any) -> Place:
    """Where in ``value`` an error is. Pydantic also names the members of unions, which are no places."""
    place: list[int | str] = []
    for part in error["loc"]:
        if part in value if isinstance(value, Mapping) else isinstance(value, list) and part in range(len(value)):
            value = value[part]
        elif not (error["type"] == "missing" and part == error["loc"][-1]):
            continue
        place.append(part)
    return tuple(place)


_MISSING = "is missing"


def _problem(errors: Sequence[ErrorDetails]) -> str:
    """What all errors of one value say, without its place."""
    first = errors[0]
    if first["type"] == "missing":
        return _MISSING
    if first["type"] == "value_error":  # of our validators, which say all of it
        return str(first["ctx"]["error"])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return "is not a field that this release knows"
    if first["loc"] and first["loc"][-1] == "[key]":
        return f"expected {_expected(first)} as its name, got {shown(first['input'])}"
    # Of a value that may have several types, what is nearest speaks: a number that is too large, not no text.
    bounds = [error for error in errors if error["type"] in _BOUND and error["type"] != "literal_error"] or errors
    return f"expected {' or '.join(dict.fromkeys(map(_expected, bounds)))}, got {shown(first['input'])}"


def shown(value: Any) -> str:
    """A value that does not fit, as errors show it: in a few words, however large it is."""
    if isinstance(value, str):
        return f"text {shortened(repr(value))}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"a table of {_counted(len(value), 'name', 'names')}"
    return shortened(json.dumps(value))


def shortened(text: str) -> str:
    """At most sixty characters of a text."""
    return text if len(text) <= 60 else text[:57] + "..."


def _expected(error: ErrorDetails) -> str:
    if error["type"] in _EXPECTED:
        return _EXPECTED[error["type"]]
    word = _BOUND.get(error["type"])
    return error["msg"] if word is None else word(cast("Mapping[str, Any]", error.get("ctx", {})))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.16g}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
