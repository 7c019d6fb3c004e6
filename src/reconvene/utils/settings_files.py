"""Reading settings from YAML and TOML, with the line of every value."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from reconvene.errors import MissingExtraError, ReconveneError
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Settings, holds, name_of

DEEPEST, MOST_VALUES = 30, 100_000
"""Nesting and number of values of a file, aliases counted as often as they are used."""

_MERGE = "tag:yaml.org,2002:merge"


def read_settings(path: str | os.PathLike[str], *, error: type[ReconveneError], usual: str) -> Settings:
    """Read a file: YAML or TOML as its name ends, else as is ``usual``.

    Raises ``error`` for a file that cannot be read, MissingExtraError for YAML without PyYAML.
    """
    source = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as trouble:  # a name with a NUL byte, or no UTF-8 inside
        raise error(f"{source} cannot be read: {getattr(trouble, 'strerror', None) or trouble}") from trouble
    ending = Path(path).suffix.lower()
    written_in = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}.get(ending, usual)
    try:
        return (_read_toml if written_in == "toml" else _read_yaml)(text, source, error)
    except RecursionError as trouble:
        raise error(f"{source} is nested too deep") from trouble


def _read_toml(text: str, source: str, error: type[ReconveneError]) -> Settings:
    try:
        values = tomllib.loads(text)
    except ValueError as trouble:
        raise error(f"{source} is not TOML: {trouble}") from trouble
    return Settings(values, source=source, error=error, line_of=lambda place: _toml_line(text, place))


def _toml_line(text: str, place: Place) -> int | None:
    """The first line of the statement with which a place, or the nearest around it, comes into being."""
    if not place:
        return None
    lines = text.splitlines()
    start = 0
    for end in range(1, len(lines) + 1):
        try:
            so_far = tomllib.loads("\n".join(lines[:end]) + "\n")
        except tomllib.TOMLDecodeError:  # in the middle of a statement
            continue
        if holds(so_far, place):
            blank = next(
                i for i, line in enumerate(lines[start:]) if line.strip() and not line.lstrip().startswith("#")
            )
            return start + blank + 1
        start = end
    return _toml_line(text, place[:-1])


def _read_yaml(text: str, source: str, error: type[ReconveneError]) -> Settings:
    try:
        import yaml
    except ImportError as trouble:
        raise MissingExtraError("pyyaml", "fleet", f"reading {source}") from trouble
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as trouble:
        mark = getattr(trouble, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise error(f"{source}{line}: this is not YAML: {getattr(trouble, 'problem', None) or trouble}") from trouble
    reader = _YamlReader(yaml, source, error)
    values = {} if root is None else reader.value(root, ())
    return Settings(values, source=source, error=error, line_of=reader.line_of)


class _YamlReader:
    """From the nodes of a YAML file to plain values; it notes the line of each."""

    def __init__(self, yaml: Any, source: str, error: type[ReconveneError]) -> None:
        self.yaml, self.source, self.error = yaml, source, error
        self.lines: dict[Place, int] = {}

    def line_of(self, place: Place) -> int | None:
        return next((self.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self.lines), None)

    def value(self, node: Any, place: Place) -> Any:
        self.lines.setdefault(place, node.start_mark.line + 1)
        if len(place) > DEEPEST or len(self.lines) > MOST_VALUES:
            self.fail(node, "too many values, or nested too deep")
        if isinstance(node, self.yaml.MappingNode):
            return self.table(node, place)
        if isinstance(node, self.yaml.SequenceNode):
            return [self.value(entry, (*place, index)) for index, entry in enumerate(node.value)]
        try:
            return self.yaml.SafeLoader("").construct_object(node, deep=True)
        except (self.yaml.YAMLError, ValueError, OverflowError) as trouble:
            return self.fail(node, f"this value cannot be read: {getattr(trouble, 'problem', None) or trouble}")

    def table(self, node: Any, place: Place) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, (key, value) in self.entries(node, place, set()).items():
            self.lines[(*place, name)] = key.start_mark.line + 1
            result[name] = self.value(value, (*place, name))
        return result

    def entries(self, node: Any, place: Place, merged: set[int]) -> dict[str, tuple[Any, Any]]:
        """Key and value of every name in a table: its own, and those of tables that it merges (``<<: *other``).

        ``merged``: the nodes that were merged already, which say nothing new: aliases of aliases can be very many.
        """
        own: dict[str, tuple[Any, Any]] = {}
        inherited: dict[str, tuple[Any, Any]] = {}
        for key, value in node.value:
            if not isinstance(key, self.yaml.ScalarNode):
                self.fail(key, f"a name in {name_of(place)} is not plain text")
            if key.tag == _MERGE:
                for table in self.tables_to_merge(key, value):
                    if id(table) not in merged:
                        merged.add(id(table))
                        inherited = {**self.entries(table, place, merged), **inherited}  # the first one decides
                continue
            name = str(key.value)
            if name in own:
                self.fail(key, f"{name!r} is there twice in {name_of(place)}")
            own[name] = key, value
        return {**inherited, **own}

    def tables_to_merge(self, key: Any, node: Any) -> list[Any]:
        tables = node.value if isinstance(node, self.yaml.SequenceNode) else [node]
        for table in tables:
            if not isinstance(table, self.yaml.MappingNode):
                self.fail(key, "'<<' takes over the names of another table, and this is none. Try: <<: *anchor")
        return list(tables)

    def fail(self, node: Any, why: str) -> NoReturn:
        raise self.error(f"{self.source}, line {node.start_mark.line + 1}: {why}")
