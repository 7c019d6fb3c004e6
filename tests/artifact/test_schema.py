"""Errors of a schema name the file, the path of the field, what is expected and what was found there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from pydantic import Field

from reconvene.errors import PlanError
from reconvene.utils.schema import (
    Count,
    NonNegative,
    Number,
    Plain,
    Share,
    closed,
    convert,
    opened,
    parse_json,
    read_json,
)


@closed
@dataclass
class Part:
    count: Count
    share: Share = 0.5


@opened
@dataclass
class Whole:
    parts: dict[str, Part]
    list: Annotated[list[Part], Field(max_length=2)] = field(default_factory=list)
    amount: NonNegative = 0
    number: Number | None = None
    free: dict[str, Plain] = field(default_factory=dict)
    by_dimension: dict[Count, str] = field(default_factory=dict)
    choice: int | bool | str = 0


GOOD: dict[str, Any] = {"parts": {"a.b": {"count": 1}}}


def error_of(values: Any) -> str:
    with pytest.raises(PlanError) as caught:
        convert(Whole, values, source="x.json", error=PlanError, remedy="Make it anew")
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": {"a.b": {"count": "many"}}}, "x.json: parts.a.b.count: expected a whole number, got text 'many'"),
        ({"parts": {"a": {"count": 1.0}}}, "parts.a.count: expected a whole number, got 1.0"),
        ({"parts": {"a": {"count": True}}}, "parts.a.count: expected a whole number, got true"),
        ({"parts": {"a": {"count": -1}}}, "parts.a.count: expected at least 0, got -1"),
        ({"parts": {"a": {"count": 10**30}}}, "expected at most 9,007,199,254,740,992, got 1000000"),
        ({"parts": {"a": {"count": 1, "share": 2}}}, "parts.a.share: expected at most 1, got 2"),
        ({"parts": {"a": {}}}, "parts.a.count is missing"),
        ({"parts": {"a": {"count": 1, "more": 1}}}, "parts.a.more: is not a field that this release knows"),
        ({"parts": None}, "parts: expected names and values, got null"),
        ({"list": [{"count": 1}] * 3}, "list: expected at most 2 entries, got a list of 3"),
        ({"list": [{"count": 1}, 5]}, "list.1: expected names and values, got 5"),
        ({"amount": []}, "amount: expected a whole number or a number, got a list of 0"),
        ({"amount": -0.5}, "amount: expected at least 0, got -0.5"),
        ({"by_dimension": {"x": "y"}}, "by_dimension.x: expected a whole number as its name, got text 'x'"),
        ({"choice": [1]}, "choice: expected a whole number or true or false or text, got a list of 1"),
        ({"free": {"a": 10**40}}, "free.a: holds a number that is not finite, or beyond 64 bits"),
        ({"parts": {"a": {"count": "x" * 999}}}, "got text 'xxxxx"),
    ],
)
def test_an_error_names_the_field(change: dict[str, Any], words: str) -> None:
    said = error_of({**GOOD, **change})
    assert words in said and said.endswith(". Make it anew") and len(said) < 200


def test_the_first_of_several_fields_is_named_and_the_others_are_counted() -> None:
    assert "(and 1 more)" in error_of({**GOOD, "amount": -1, "number": "x"})


def test_what_has_no_type_of_its_own_is_bounded() -> None:
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    assert "free.a: has more than 16 levels" in error_of({**GOOD, "free": {"a": deep}})


@pytest.mark.parametrize("text", ["NaN", "[1e", "", "[" * 2000, "\ufeff{}", b"\xff", '"\\ud800"', "1" * 5000])
def test_what_is_no_json_is_an_error_of_ours(text: str | bytes) -> None:
    with pytest.raises(PlanError, match=r"x\.json is truncated, nested too deep, or not JSON"):
        parse_json(text, source="x.json", error=PlanError)


@pytest.mark.parametrize("text", ['{"parts": {}, "number": 1e999}', '{"parts": {}, "free": {"a": 1e999}}'])
def test_a_number_that_overflows_is_not_finite(text: str) -> None:
    with pytest.raises(PlanError, match="finite"):
        read_json(Whole, text, source="x.json", error=PlanError)


def test_numbers_stay_as_they_are_written() -> None:
    values = {**GOOD, "amount": 3, "number": 2.0, "free": {"a": [1, 1.0, None]}, "by_dimension": {"1": "x"}}
    whole = convert(Whole, {**values, "unknown": 1}, source="x.json", error=PlanError)
    assert json.dumps([whole.amount, whole.number, whole.free]) == '[3, 2.0, {"a": [1, 1.0, null]}]'
    assert whole.by_dimension == {1: "x"} and whole.parts["a.b"] == Part(1)


def test_values_that_json_cannot_hold_are_errors_of_ours() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (float("nan"), {1, 2}, circle):
        assert "cannot be kept as JSON" in error_of({"parts": value})
