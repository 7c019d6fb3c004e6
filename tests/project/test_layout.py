"""The house: imports go one way and in no circle, the core needs the core's dependencies only, files stay readable."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import reconvene
from support import paths

ROOT = Path(reconvene.__path__[0])
CONTRIBUTING = paths.ROOT / "CONTRIBUTING.md"
# The way of the data: a room imports rooms above it or itself, never one below. CONTRIBUTING.md draws the same.
ORDER = [
    *("_version", "errors", "utils", "structure", "criteria", "evaluator", "costs"),
    *("quantiser", "allocation", "surgery"),
    *("rectifier", "tasks", "devices", "models", "data", "safety", "artifact", "training", "deploy", "planning", "api"),
    *("pages", "experiments", "workflow", "fleet", "cli", "__init__", "__main__"),
]
AT_THE_TOP = {"__init__", "__main__", "_version", "api", "errors"}
"""Modules at the top of the package; everything else has a room."""
CORE = {
    "filelock",
    "numpy",
    "pydantic",
    "pydantic_core",
    "reconvene",
    "rich",
    "safetensors",
    "torch",
    "typing_extensions",
    "tyro",
}
LONGEST = 330


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(nodes: list[ast.stmt] | ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(nodes) if isinstance(nodes, ast.Module) else nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in files()} <= set(ORDER)
    assert {path.stem for path in ROOT.glob("*.py")} == AT_THE_TOP


def test_only_what_goes_to_a_device_imports_relatively_and_nothing_else_of_ours() -> None:
    for path in files():
        statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        goes_to_a_device = "on_device" in path.parts
        assert goes_to_a_device or not any(node.level for node in statements), path
        assert not goes_to_a_device or not any((node.module or "").startswith("reconvene") for node in statements), path


def test_what_goes_to_a_device_runs_on_python_3_9() -> None:
    folders = [str(path) for path in ROOT.glob("*/on_device")]
    assert len(folders) == 2
    vermin = str(Path(sys.executable).with_name("vermin"))
    asked = [vermin, "-t=3.9-", "--no-tips", "--violations", *folders]
    checked = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_nothing_imports_from_further_down_the_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files()
        if room(path) != "__init__"  # the package's front door shows every room
        for name in sorted(imported(ast.parse(path.read_text())))
        if (parts := name.split("."))[0] == "reconvene" and len(parts) > 1 and parts[1] in ORDER
        if ORDER.index(parts[1]) > ORDER.index(room(path))
    ]
    assert not wrong


def test_the_picture_of_contributing_shows_the_same_order() -> None:
    drawn = re.findall(r"^(\w+)/ ", CONTRIBUTING.read_text(), flags=re.MULTILINE)
    assert drawn == [name for name in ORDER if name not in AT_THE_TOP]


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {name_of(path): path for path in files()}
    needs = {
        name: {other for other in _at_the_top(path) if other in modules and other != name}
        for name, path in modules.items()
        if path.name != "__init__.py"  # a package shows what its files offer, and they are loaded through it
    }
    assert not _circle(needs)


def _at_the_top(path: Path) -> set[str]:
    """Modules that a file imports when it is loaded, itself and not for its types only."""
    return imported(ast.parse(path.read_text()).body)  # what stands under ``if TYPE_CHECKING`` is no top-level import


def _circle(needs: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a circle; empty where there is none."""
    left = dict(needs)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_a_circle_would_be_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c", "d"]


def test_what_is_imported_at_the_top_comes_with_the_core() -> None:
    extras = [
        f"{path.relative_to(ROOT)} imports {name}: import an extra where it is used"
        for path in files()
        for name in sorted(imported(ast.parse(path.read_text()).body))
        if name.split(".")[0] not in CORE | sys.stdlib_module_names
    ]
    assert not extras


def test_a_file_is_read_in_one_sitting() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files()}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST}
