"""Modules that add costs, criteria, operators, runtimes or tasks of their own, imported before a command runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from reconvene.errors import PluginError

_GROUP = "reconvene.plugins"
"""Entry points of installed packages that are imported."""
VARIABLE = "RECONVENE_PLUGINS"
"""Environment variable with names of modules, separated by commas; those of the current folder are found, too."""


def load_plugins() -> list[str]:
    """Import every plugin, once a process; returns their names. Child processes inherit the variable.

    Raises:
        PluginError: a plugin cannot be imported; the message names it and says why.
    """
    names = []
    for entry in metadata.entry_points(group=_GROUP):
        _import(entry.name, entry.module)
        names.append(entry.name)
    with _current_folder():
        for name in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
            _import(f"{name} ({VARIABLE})", name)
            names.append(name)
    return names


def _import(label: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())
        raise PluginError(f"the plugin {label} cannot be imported: {type(error).__name__}: {words}") from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """Find modules of the current folder, as ``python`` does; afterwards the list of folders is as it was."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        if "" in sys.path:
            sys.path.remove("")
