"""What ``reconvene COMMAND --help`` prints: options in groups, each with one sentence, and an example on top."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import textwrap
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from reconvene.cli.budget_options import ABOUT, HOW_SMALL, SPECIAL

if TYPE_CHECKING:
    from reconvene.cli.command import Command

WIDEST, INDENT = 100, 22
_POSITIONAL = typing.get_args(Positional[int])[1]
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
_SILENT_DEFAULTS = (None, False, "", ())
"""Defaults that a sentence says better, or that say nothing."""


@dataclass(frozen=True)
class Option:
    """One option of a command, or one word that has no name before it."""

    name: str
    names: tuple[str, ...]
    metavar: str
    help: str
    default: Any
    positional: bool
    heading: str

    @property
    def needed(self) -> bool:
        """Whether the command does nothing without it."""
        return self.default is dataclasses.MISSING

    @property
    def call(self) -> str:
        """As one writes it: ``-o, --output DIR``."""
        return self.metavar if self.positional else " ".join(filter(None, (", ".join(self.names), self.metavar)))


def options_of(command: type[Command]) -> tuple[Option, ...]:
    """All options of a command, the needed ones first, then in the order of the classes that bring them."""
    hints = typing.get_type_hints(command, include_extras=True)
    options = [
        _option(field, hints[field.name], _texts(owner).get(field.name, ""), getattr(owner, "heading", ""))
        for owner, field in _fields(command)
    ]
    return tuple(sorted(options, key=lambda option: (not option.needed, not option.positional)))


def help_text(name: str, command: type[Command]) -> str:
    """The help of one command, as wide as the terminal but no wider than is read well."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    options = options_of(command)
    words = " ".join(option.call.rpartition(", ")[2] for option in options if option.needed)
    parts = [f"usage: reconvene {name} {words} [OPTIONS]".replace("  ", " "), _paragraphs(command, width)]
    parts += (
        ["\n".join(["for example:", *(f"  {line}" for line in command.command_lines)])] if command.command_lines else []
    )
    for heading in _headings(options):
        own = [o for o in options if ("" if o.needed or o.positional else o.heading) == heading]
        lines = [line for option in own for line in _lines(option, width)]
        parts.append("\n".join([*([f"{heading}:"] if heading else []), *lines]))
    parts.append("Words such as group, plan and artifact: reconvene --words, or docs/glossary.md")
    return "\n\n".join(parts)


def _headings(options: Iterable[Option]) -> list[str]:
    """The headings in their order: none first, those about limits together, those of every command last."""
    named = dict.fromkeys("" if option.needed or option.positional else option.heading for option in options)
    last = ("repeating it", "in every command")
    headings = sorted(named, key=lambda heading: (heading != "", heading in last))
    limits = iter([heading for heading in (HOW_SMALL, ABOUT, SPECIAL) if heading in named])
    return [next(limits) if heading in (HOW_SMALL, ABOUT, SPECIAL) else heading for heading in headings]


def _fields(command: type[Command]) -> Iterator[tuple[type, dataclasses.Field[Any]]]:
    """Every field with the class that declares it, the command's own first."""
    fields = {field.name: field for field in dataclasses.fields(command)}
    for owner in command.__mro__:
        for name in inspect.get_annotations(owner):
            if (field := fields.pop(name, None)) is not None:
                yield owner, field


@cache
def _texts(owner: type) -> dict[str, str]:
    """The docstring below each field of a class; none for a class that no file declares."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    except (OSError, TypeError):
        return {}
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        text = after.value if isinstance(after, ast.Expr) else None
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            texts[field.target.id] = " ".join(text.value.split())
    return texts


def _option(field: dataclasses.Field[Any], hint: Any, text: str, heading: str) -> Option:
    inner, notes = _unwrapped(hint)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    metavar = next((note.metavar for note in notes if getattr(note, "metavar", None)), None)
    aliases = next((tuple(note.aliases) for note in notes if getattr(note, "aliases", None)), ())
    text = text or next((note.help for note in notes if getattr(note, "help", None)), "")
    positional = _POSITIONAL in notes
    metavar = (metavar or _metavar(inner, field.name)) if positional or inner is not bool else ""
    names = (*aliases, f"--{field.name.replace('_', '-')}")
    return Option(field.name, names, metavar, text, default, positional, heading)


def _unwrapped(hint: Any) -> tuple[Any, list[Any]]:
    """A type without its annotations and without ``None``, and all its annotations."""
    notes: list[Any] = []
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            notes += hint.__metadata__
            hint = typing.get_args(hint)[0]
        elif typing.get_origin(hint) in (typing.Union, UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not NoneType)
        else:
            return hint, notes


def _metavar(kind: Any, name: str) -> str:
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    return _METAVARS.get(kind, name.upper())


def _lines(option: Option, width: int) -> list[str]:
    has_default = option.default not in _SILENT_DEFAULTS and not option.needed and "default" not in option.help
    text = f"{option.help} Default: {_default(option.default)}." if has_default else option.help
    wrapped = textwrap.wrap(text, max(width - INDENT, 20), break_long_words=False, break_on_hyphens=False) or [""]
    call = f"  {option.call}"
    first = [f"{call:<{INDENT}}{wrapped[0]}"] if len(call) < INDENT - 1 else [call, " " * INDENT + wrapped[0]]
    return [*first, *(" " * INDENT + line for line in wrapped[1:])]


def _default(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _paragraphs(command: type[Command], width: int) -> str:
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(textwrap.fill(" ".join(paragraph.split()), width) for paragraph in paragraphs)
