"""The house: imports go one way, the core needs the core's dependencies only, files stay readable."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import reconvene

ROOT = Path(reconvene.__path__[0])
# The way of the data (CONTRIBUTING.md): a room imports rooms above it or itself, never one below.
ORDER = [
    "_version",
    "errors",
    "disk",
    "text",
    "modes",
    "structure",
    "saliency",
    "evaluator",
    "allocation",
    "surgery",
    "rectifier",
    "devices",
    "planning",
    "planner",
    "api",
    "models",
    "artifact",
    "data",
    "training",
    "deploy",
    "weighing",
    "yardsticks",
    "timing",
    "cutting",
    "report",
    "experiments",
    "pipeline",
    "fleet",
    "cli",
    "__init__",
    "__main__",
]
CORE = {"filelock", "numpy", "reconvene", "rich", "safetensors", "torch", "tyro"}


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(nodes: list[ast.stmt] | ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(nodes) if isinstance(nodes, ast.Module) else nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in files()} <= set(ORDER)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_from_further_down_the_way(path: Path) -> None:
    own = ORDER.index(room(path))
    if room(path) == "__init__":
        return  # the package's front door shows every room
    for name in imported(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "reconvene" and len(parts) > 1 and parts[1] in ORDER:
            assert ORDER.index(parts[1]) <= own, f"{room(path)} imports {name}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_at_the_top_comes_with_the_core(path: Path) -> None:
    for name in imported(ast.parse(path.read_text()).body):
        top = name.split(".")[0]
        assert top in CORE or top in sys.stdlib_module_names, f"{top} is an extra: import it where it is used"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 330
