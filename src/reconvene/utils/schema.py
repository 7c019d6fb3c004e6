"""Files of JSON, checked against the type that describes them: strict types, bounds, finite numbers, bounded nesting.

A dataclass (or ``TypedDict``) describes a file. ``@closed`` refuses fields that it does not name, ``@opened`` passes
over them. An error names the file, the path of the field, what is expected and what was found there::

    reconvene.json: measurements.training.accuracy: expected a number, got text 'high'
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, Field, GetPydanticSchema, TypeAdapter, ValidationError
from pydantic_core import core_schema, from_json

from reconvene.errors import ReconveneError
from reconvene.utils.invalid_values import first_invalid, shortened

_T = TypeVar("_T")
Class = TypeVar("Class", bound=type)

LARGEST = 2**53
"""Largest whole number that every reader of JSON keeps exactly."""
_DEEPEST = 16
"""Nesting of what has no type of its own; of everything together the parser allows 200."""
LONGEST = 2**20
"""Characters of a text."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
"""A whole number, not below zero."""
Size = Annotated[int, Field(ge=1, le=2**40)]
"""A whole number of things there are."""
AnySeed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
"""What torch takes as one."""
Number = Annotated[int, Field(ge=-LARGEST, le=LARGEST)] | Annotated[float, Field(ge=-1e300, le=1e300)]
"""A number, kept as it is written: ``3`` stays a whole number."""
NonNegative = Annotated[int, Field(ge=0, le=LARGEST)] | Annotated[float, Field(ge=0, le=1e300)]
"""A number that is not below zero, kept as it is written."""
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=LONGEST)]
Name = Annotated[str, Field(max_length=1000)]
"""Text that errors repeat in full: of a module, an attribute, a file."""

_BASE = {"strict": True, "allow_inf_nan": False}


def closed(described: Class) -> Class:
    """Class decorator: a field that the class does not name is refused."""
    described.__pydantic_config__ = {**_BASE, "extra": "forbid"}  # type: ignore[attr-defined]  # where pydantic looks
    return described


def opened(described: Class) -> Class:
    """Class decorator: fields that the class does not name are passed over, as newer releases may write some."""
    described.__pydantic_config__ = {**_BASE, "extra": "ignore"}  # type: ignore[attr-defined]  # where pydantic looks
    return described


def with_more(described: Class) -> Class:
    """Class decorator for a ``TypedDict``: entries that it does not name are kept as they are."""
    described.__pydantic_config__ = {**_BASE, "extra": "allow"}  # type: ignore[attr-defined]  # where pydantic looks
    return described


def described_by(described: Any) -> GetPydanticSchema:
    """For ``Annotated``: what has a plain type in the program is checked in a file as another type describes it."""
    return GetPydanticSchema(
        lambda _, handler: core_schema.no_info_after_validator_function(_plain, handler.generate_schema(described))
    )


def parse_json(data: bytes | str, *, source: object, error: type[ReconveneError], remedy: str = "") -> Any:
    """The value of JSON text, in plain Python types.

    Raises:
        ReconveneError: of the type ``error``; truncated, nested without end, NaN, not UTF-8, or no JSON at all.
    """
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as reason:
        raise error(
            f"{source} is truncated, nested too deep, or not JSON at all: {reason}{_sentence(remedy)}"
        ) from None


def read_json(
    schema: type[_T],
    data: bytes | str,
    *,
    source: object,
    error: type[ReconveneError],
    remedy: str = "",
) -> _T:
    """The value of ``schema`` that JSON text describes.

    Args:
        schema: a dataclass or typed dictionary, decorated by ``closed`` or ``opened``.
        data: the text.
        source: what the text is, as errors call it: mostly the path of a file.
        error: what is raised.
        remedy: a sentence on what to do about a text that does not fit.

    Raises:
        ReconveneError: of the type ``error``, naming the first field that does not fit.
    """
    try:
        value: _T = adapter_of(cast("Any", schema)).validate_json(data)
        return value
    except ValidationError as failure:
        plain = parse_json(data, source=source, error=error, remedy=remedy)
        invalid = first_invalid(failure, plain)
        named = ".".join(shortened(str(part)) for part in invalid.place)
        raise error(f"{source}: {invalid.sentence(named)}{_sentence(remedy)}") from None


def convert(schema: type[_T], value: Any, *, source: object, error: type[ReconveneError], remedy: str = "") -> _T:
    """``read`` for plain Python values instead of their JSON text; ``to_json`` says which those are."""
    text = to_json(value, source=source, error=error)
    return read_json(schema, text, source=source, error=error, remedy=remedy)


def to_json(value: Any, *, source: object, error: type[ReconveneError]) -> str:
    """JSON text of plain values. Raises an ``error`` for what JSON cannot hold: other types, NaN, circles."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as reason:
        raise error(
            f"{source} cannot be kept as JSON: {reason}. Use finite numbers, strings, lists and dicts"
        ) from None


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` unchanged. Raises ValueError where it is nested too deep, too long, or holds no finite number."""
    if depth > _DEEPEST:
        raise ValueError(f"has more than {_DEEPEST} levels of lists and objects")
    if isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            _plain(entry, depth + 1)
    elif isinstance(value, str):
        if len(value) > LONGEST:
            raise ValueError(f"has more than {LONGEST:,} characters")
    elif value is not None and not (math.isfinite(value) if isinstance(value, float) else abs(value) < 2**64):
        raise ValueError("holds a number that is not finite, or beyond 64 bits")
    return value


Plain = Annotated[Any, AfterValidator(_plain)]
"""JSON without a type of its own: settings that are compared, and printed, but not computed with."""


@cache
def adapter_of(schema: Any) -> TypeAdapter[Any]:
    """What checks values against a type; made once, since that takes milliseconds."""
    return TypeAdapter(schema)


def _sentence(remedy: str) -> str:
    return f". {remedy}" if remedy else ""
