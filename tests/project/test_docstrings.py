"""Public names have an example, and examples do what they show."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import reconvene as rc

NEEDS_A_HUB = {"from_pretrained", "push_to_hub"}
"""Their examples would reach the network; docs/sharing.md shows them."""
PUBLIC = sorted(set(rc.__all__) - NEEDS_A_HUB - {"__version__"})
PACKAGE = Path(rc.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("reconvene", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
"""Modules whose docstrings hold examples; those of public names are run one by one above."""


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
    is_error = inspect.isclass(thing) and issubclass(thing, Exception)
    assert examples or is_error, f"{name} has no example in its docstring"
    for test in examples:
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test)
        assert not runner.failures


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_that_are_not_of_public_names_run(name: str) -> None:
    module = importlib.import_module(name)
    public = {id(getattr(rc, known)) for known in rc.__all__}
    for test in doctest.DocTestFinder().find(module):
        first = test.name.removeprefix(f"{name}.").partition(".")[0]
        if test.examples and id(getattr(module, first, None)) not in public:
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            runner.run(test)
            assert not runner.failures, test.name
