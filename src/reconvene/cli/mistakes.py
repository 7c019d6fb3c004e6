"""Mistakes on a command line, each said in one line with what was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from reconvene.cli.help_text import options_of
from reconvene.errors import suggestion

if TYPE_CHECKING:
    from reconvene.cli.command import Command


def check_options(name: str, command: type[Command], tokens: Sequence[str]) -> None:
    """Raise UsageError for an option that the command does not have, with the nearest one, or whose option it is."""
    from reconvene.cli.command import UsageError

    option_names = {word for option in options_of(command) if not option.positional for word in option.names}
    for token in tokens:
        word = token.partition("=")[0].replace("_", "-")
        if token == "--":
            return
        if not re.fullmatch(r"--[a-zA-Z][\w-]*|-[a-zA-Z]", word) or word in option_names:
            continue
        owners = [other for other in _commands() if other != name and word in _names(other)]
        hint = f" It is one of reconvene {', '.join(owners)}." if owners else suggestion(word, sorted(option_names))
        raise UsageError(f"there is no option {token.partition('=')[0]}.{hint} All: reconvene {name} --help")


def in_a_line(text: str, name: str, command: type[Command]) -> str:
    """What tyro says in a box, as one line."""
    bare = [re.sub(r"^[│|] ?| *[│|]$", "", line).rstrip() for line in text.splitlines()]
    lines = [line for line in bare if re.search(r"\w", line)]
    if any("Missing from" in line for line in lines):
        message_lines = [line.strip() for line in lines]
        needed = [option for option in options_of(command) if option.needed]
        words_of_message = {
            word for line in message_lines if len(line.split()) < 8 for word in line.replace(",", "").split()
        }
        missing = [
            option.call
            for option in needed
            if (option.call if option.positional else option.names[-1]) in words_of_message
        ]
        if missing:
            verb = "are" if len(missing) > 1 else "is"
            return f"{' and '.join(missing)} {verb} missing. All: reconvene {name} --help"
    ends = ("For full helptext", "Argument helptext")
    end = next((i for i, line in enumerate(lines) if line.strip().startswith(ends)), len(lines))
    words, _, reasons = " ".join(" ".join(lines[1:end]).split()).partition(" Got errors:")
    words = re.sub(r"no type matching (\w+) could be instantiated from \['(.*)'\]", r"\2 is not of the type \1", words)
    own = [
        reason.partition(": ")[2] for reason in reasons.split(" - ") if not re.search("invalid literal|convert", reason)
    ]
    return f"{': '.join(part.rstrip('. ') for part in (words, *own) if part)}. All options: reconvene {name} --help"


def _commands() -> list[str]:
    from reconvene.cli import COMMANDS

    return list(COMMANDS)


def _names(name: str) -> set[str]:
    from reconvene.cli import COMMANDS

    command = getattr(import_module(f"reconvene.cli.{name}"), COMMANDS[name][0])
    return {word for option in options_of(command) for word in option.names}
