"""Every attribute of an optional package that our code uses, read off its source, and whether each one is there.

As a script it checks each function in a process of its own, in which nothing but what this function imports has been
imported: packages load parts of themselves lazily, and whatever else ran before would hide that a part is not loaded.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "src" / "reconvene"
CORE = {"filelock", "numpy", "reconvene", "rich", "safetensors", "torch", "tyro"}
IMPORTERS = {"import_module", "import_extra", "import_data_extra", "imported", "_optional"}
"""Functions that import what their first argument names."""


@dataclass
class Use:
    """What one function needs of optional packages: modules, and dotted attributes by the module they start from."""

    where: str
    modules: list[str] = field(default_factory=list)
    attributes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def packages(self) -> set[str]:
        return {module.partition(".")[0] for module in self.modules}


@cache
def uses(sources: Path = SOURCES) -> list[Use]:
    """The uses of every function, with the file and the name of the function."""
    out: list[Use] = []
    for path in sorted(sources.rglob("*.py")):
        name = str(path.relative_to(sources))
        out += list(_of_file(name, ast.parse(path.read_text(encoding="utf-8"))))
    return [use for use in out if use.modules]


def missing(use: Use) -> list[str]:
    """The modules and attributes that are not there after the function's own imports, each with the reason."""
    lost: list[str] = []
    for module in use.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            lost.append(f"{module}: {error}")
    for module, chains in use.attributes.items():
        for chain in chains:
            value: object = sys.modules.get(module)
            for part in chain.split(".") if value is not None else ():
                if not isinstance(value, type(sys)) and not isinstance(value, type):
                    break  # attributes of values are known when the code runs, not here
                try:
                    value = getattr(value, part)
                except AttributeError as error:
                    lost.append(f"{module}.{chain}: {error}")
                    break
    return lost


def _of_file(name: str, tree: ast.Module) -> Iterator[Use]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    returning = {f.name: module for f in functions for module in _returned(f)}
    inner = {id(node) for f in functions for node in ast.walk(f) if node is not f and isinstance(node, ast.FunctionDef)}
    outer = [f for f in functions if id(f) not in inner]
    shared = {alias: module for f in outer for alias, module in _aliases(f, returning).items()}
    for function in outer:
        # A module that is handed on keeps its name: the parameter stands for what it is called elsewhere in the file.
        handed = {arg.arg: shared[arg.arg] for arg in function.args.args if arg.arg in shared}
        aliases = handed | _aliases(function, returning)
        use = Use(f"{name}:{function.name}")
        imported = _imported(function, returning)
        use.modules = sorted({*imported, *aliases.values()})
        for module, chain in _chains(function, aliases, returning):
            known = use.attributes.setdefault(module, [])
            if chain not in known:
                known.append(chain)
        yield use


def _optional(module: str) -> bool:
    top = module.partition(".")[0]
    return top not in CORE and top not in sys.stdlib_module_names


def _called(node: ast.AST, returning: dict[str, str]) -> str | None:
    """The module that a call imports: ``import_module("x")``, ``needs("x", ...)``, or a function that returns one."""
    if not isinstance(node, ast.Call):
        return None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in returning and name not in IMPORTERS:
        return returning[name]
    first = node.args[0] if node.args else None
    if name in IMPORTERS and isinstance(first, ast.Constant) and isinstance(first.value, str):
        return first.value if _optional(first.value) else None
    return None


def _returned(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and (module := _called(node.value, {}) if node.value else None):
            yield module


def _imported(function: ast.FunctionDef, returning: dict[str, str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if _optional(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module and _optional(node.module):
            found.add(node.module)
        elif module := _called(node, returning):
            found.add(module)
    return found


def _aliases(function: ast.FunctionDef, returning: dict[str, str]) -> dict[str, str]:
    """Names in a function that stand for a module."""
    found: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _optional(alias.name):
                    found[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
        elif isinstance(node, ast.Assign) and (module := _called(node.value, returning)):
            found |= {target.id: module for target in node.targets if isinstance(target, ast.Name)}
    return found


def _chains(function: ast.FunctionDef, aliases: dict[str, str], returning: dict[str, str]) -> Iterator[tuple[str, str]]:
    for node in ast.walk(function):
        if isinstance(node, ast.ImportFrom) and node.module and _optional(node.module):
            yield from ((node.module, alias.name) for alias in node.names)
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if not parts:
            continue
        if isinstance(node, ast.Name) and node.id in aliases:
            yield aliases[node.id], ".".join(parts)
        elif module := _called(node, returning):
            yield module, ".".join(parts)


def merged(packages: set[str]) -> list[Use]:
    """The uses of these packages alone, functions that import the same taken together."""
    together: dict[tuple[str, ...], Use] = {}
    for use in uses():
        if not use.packages <= packages:
            continue
        one = together.setdefault(tuple(use.modules), Use("", use.modules))
        one.where = ", ".join(filter(None, (one.where, use.where)))
        for module, chains in use.attributes.items():
            known = one.attributes.setdefault(module, [])
            known += [chain for chain in chains if chain not in known]
    return list(together.values())


def main(packages: list[str]) -> None:
    """Print, as JSON, what is missing by functions; each set of imports in a forked process of its own."""
    import torch  # noqa: F401  # it is there before any optional package

    report: dict[str, list[str]] = {}
    for use in merged(set(packages)):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, json.dumps(missing(use)).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            text = answer.read()
        os.waitpid(child, 0)
        report[use.where] = json.loads(text) if text else ["the process that imports it ended"]
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
