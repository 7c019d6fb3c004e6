"""Seeded damage to JSON: one field of a wrong type, huge, negative, not a number, nested too deep, or gone."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[Any, ...]


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


WRONG: tuple[Any, ...] = (
    *(None, True, "", "text", "9" * 40, "\x00/../", [], [[]], [1, "a", None], {}, {"": 1}, {"a": {"b": []}}),
    *(0, -1, -(2**63), 2**53, 2**64, 10**30, 1.5, -0.5, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), -float("inf"), "1e999 without quotes"),
    *(nested(20), nested(150), "nested 2000", "0-99999999", "../x", "/etc/passwd", "a" * 3000),
)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from paths(entry, (*path, key))


def mutated(data: Any, random_state: random.Random) -> tuple[str, Any]:
    """What was changed, in words, and the changed copy of ``data``."""
    data = copy.deepcopy(data)
    *parents, key = random_state.choice([path for path in paths(data) if path])
    place = data
    for parent in parents:
        place = place[parent]
    where = ".".join(map(str, (*parents, key)))
    action = random_state.random()
    if action < 0.1:
        del place[key]
        return f"{where} gone", data
    if action < 0.15 and isinstance(place, dict):
        place["a field of nobody"] = random_state.choice(WRONG)
        return f"a field beside {where}", data
    if action < 0.2 and isinstance(place, list):
        place.extend(place * random_state.choice((1, 50)))
        return f"{where} with more beside it", data
    place[key] = random_state.choice(WRONG)
    return f"{where} = {str(place[key])[:60]!r}", data


def text_of(data: Any, dump: Callable[[Any], str] = json.dumps) -> bytes:
    """JSON text, with what Python cannot hold or write put in afterwards."""
    text = dump(data).replace('"1e999 without quotes"', "1e999")
    return text.replace('"nested 2000"', "[" * 2000 + "]" * 2000).encode("utf-8", "surrogatepass")
