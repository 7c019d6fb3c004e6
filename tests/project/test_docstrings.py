"""Public names have an example, and examples do what they show."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import reconvene as rc

NEEDS_A_HUB = {"from_pretrained", "push_to_hub"}
"""Their examples would reach the network; docs/sharing.md shows them."""
PUBLIC = sorted(set(rc.__all__) - NEEDS_A_HUB - {"__version__"})
LIGHT = ("reconvene.costs", "reconvene.utils", "reconvene.tasks")
"""Rooms whose docstrings are searched for examples, beside those of the public names."""


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_shows_an_example_that_runs(name: str) -> None:
    thing = getattr(rc, name)
    examples = [
        test
        for test in doctest.DocTestFinder().find(
            thing, name, globs=dict(vars(thing)) if inspect.ismodule(thing) else {}
        )
        if test.examples
    ]
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    assert examples, f"{name} has no example in its docstring"
    for test in examples:
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test)
        assert not runner.failures


@pytest.mark.parametrize("room", LIGHT)
def test_examples_of_a_room_run(room: str) -> None:
    package = importlib.import_module(room)
    names = [room, *(module.name for module in pkgutil.walk_packages(package.__path__, f"{room}."))]
    assert not [name for name in names if doctest.testmod(importlib.import_module(name)).failed]
