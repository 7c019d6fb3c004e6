"""What every runtime offers: a file format to export to, and a way to run such a file (or the module itself)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor, nn

from reconvene.errors import MissingExtraError


class Session(Protocol):
    """A model loaded in a runtime."""

    def bind(self, example_inputs: Any) -> Callable[[], object]:
        """One inference on these inputs as a call ready to be timed: conversions are done before, not inside."""

    def run(self, example_inputs: Any) -> dict[str, Tensor]:
        """Outputs by name, on the CPU. Raises ModelError when the runtime refuses the inputs."""


@dataclass(frozen=True)
class Runtime:
    """One file of this folder fills in one of these; export, run, verify and bench are written once over them.

    Attributes:
        name: what ``bench`` and ``verify`` call it.
        file_format: what ``export`` calls its format; ``None`` for a runtime that only runs the module itself.
        suffix: ending of its files; empty without a format.
        export: writes ``model`` for ``example_inputs`` to a path and returns every file written, the main one first.
        open: loads a file (or a module, without a format) with so many threads, as a context manager.
        versions: versions of the packages that take part.
    """

    name: str
    file_format: str | None
    suffix: str
    export: Callable[[nn.Module, Any, Path], list[Path]] | None
    open: Callable[[nn.Module | Path, int], AbstractContextManager[Session]]
    versions: Callable[[], dict[str, str]]


def imported(package: str, extra: str, needed_for: str) -> ModuleType:
    """Import an optional package, or raise MissingExtraError naming the extra that brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, extra, needed_for) from error
