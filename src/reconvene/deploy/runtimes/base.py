"""What every runtime offers: a file format to export to, and a way to run such a file (or the module itself)."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor, nn

from reconvene.deploy import on_device
from reconvene.deploy.options import FileOptions
from reconvene.deploy.quantisation import Quantisation
from reconvene.devices.memory import ActivationPolicy
from reconvene.errors import MissingExtraError, ModelError


class Session(Protocol):
    """A model loaded in a runtime.

    ``batch`` is how many examples one call of the file takes; ``None`` where any number will do. A larger batch that
    it divides is run piece by piece.
    """

    batch: int | None

    def bind(self, example_inputs: Any) -> Callable[[], object]:
        """One inference on these inputs as a call ready to be timed: conversions are done before, not inside."""

    def run(self, example_inputs: Any) -> dict[str, Tensor]:
        """Outputs by name, on the CPU. Raises ModelError when the runtime refuses the inputs."""


@dataclass(frozen=True)
class Written:
    """What a runtime's exporter wrote: every file, the main one first, and what the caller did not ask for.

    ``batch`` is how many examples a call takes, ``None`` for any number; ``notes`` say in words where the file is
    other than the default; ``keep_fp32`` are layers that the exporter itself left in float32.
    """

    files: tuple[Path, ...]
    batch: int | None = None
    notes: tuple[str, ...] = ()
    keep_fp32: tuple[str, ...] = ()


_Export = Callable[[nn.Module, Any, Path, FileOptions], Written]
Quantize = Callable[[nn.Module, Any, Path, Quantisation, FileOptions], Written]
Open = Callable[[nn.Module | Path, int], AbstractContextManager[Session]]


@dataclass(frozen=True)
class OnDevice:
    """How a bundle runs the files of a runtime on a device.

    Attributes:
        package: what pip calls the package that runs them there.
        program: a Python file with ``load(path, threads)``, which gives a function from float32 ``[1, C, h, w]`` to
            scores ``[1, classes]``. It goes to ``on_device/runtimes/`` of the bundle, needs numpy and the package only,
            and raises ``Refused`` of ``..files`` in one line for the user.
    """

    package: str
    program: Path


@dataclass(frozen=True)
class Runtime:
    """One file of this folder fills in one of these; export, run, verify and bench are written once over them.

    Attributes:
        name: what ``bench`` and ``verify`` call it.
        file_format: what ``export`` calls its format; ``None`` for a runtime that only runs the module itself.
        suffix: ending of its files; empty without a format.
        export: writes ``model`` for ``example_inputs`` to a path, as the options say.
        quantize: the same in int8; ``None`` for a runtime without.
        open: loads a file (or a module, without a format) with so many threads, as a context manager.
        extra: the extra of ours that brings its packages.
        to_run: packages that run a file, and the oldest version we know to work; ``to_export``: those that make one.
        tolerance: largest error of a float32 file that is no fault, as a share of the largest output.
        takes: options that its files can have: ``free_batch``, ``static_batch`` (of more than one), ``dynamic_axes``,
            ``opset``, ``fp16``, ``state`` (of a network, as input and output). Without ``free_batch`` a file is for a
            batch of one unless the caller says otherwise.
        takes_ranges: whether int8 can take the ranges that quantisation-aware training learned.
        plan_memory: bytes that it plans for the activations of a model, given itself, the model, its inputs and the
            precision; ``None`` where it does not say.
        holds: by precision how it holds activations, where that differs from PyTorch: budgets on its memory are
            predicted by it.
        on_device: how a bundle runs its files; ``None`` where it cannot.
        first_package: a package that pip must install by itself before the extra; see pyproject.toml.
        timed: whether its time says something of a device; a file that is only replayed to be checked has none.
    """

    name: str
    file_format: str | None
    suffix: str
    export: _Export | None
    quantize: Quantize | None
    open: Open
    extra: str = ""
    to_run: Mapping[str, str] = field(default_factory=dict)
    to_export: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 1e-4
    takes: frozenset[str] = frozenset()
    takes_ranges: bool = False
    plan_memory: Callable[[Runtime, nn.Module, Any, str], int] | None = None
    holds: Mapping[str, ActivationPolicy] = field(default_factory=dict)
    on_device: OnDevice | None = None
    first_package: str | None = None
    timed: bool = True

    def require(self, *, exporting: bool) -> None:
        """Import what running (and ``exporting``) needs. Raises MissingExtraError: absent, or too old."""
        needed_for = f"exporting to {self.file_format}" if exporting else f"running in {self.name}"
        for package, minimum_version in {**self.to_run, **(self.to_export if exporting else {})}.items():
            imported(package, self.extra, needed_for, minimum_version=minimum_version, first=self.first_package)

    def versions(self) -> dict[str, str]:
        """Versions of the packages that take part."""
        return {package: metadata.version(package) for package in (*self.to_run, *self.to_export)}

    @property
    def installed(self) -> bool:
        """Whether everything that exporting and running need is there, without importing it."""
        packages = (*self.to_run, *self.to_export)
        return all(importlib.util.find_spec(package) is not None for package in packages)


def our_program(name: str) -> Path:
    """The program of ours that runs files in a runtime on a device."""
    return Path(on_device.__file__).parent / "runtimes" / f"{name}.py"


def file_of(model: nn.Module | Path, runtime: str) -> Path:
    """The file a runtime is to open. Raises ModelError for a module, or where there is no file."""
    if isinstance(model, nn.Module):
        raise ModelError(f"{runtime} runs files: export the module first")
    if not model.is_file():
        raise ModelError(f"there is no file {model}")
    return model


def imported(
    package: str, extra: str, needed_for: str, *, minimum_version: str | None = None, first: str | None = None
) -> ModuleType:
    """Import an optional package, or raise MissingExtraError naming the extra that brings it.

    ``minimum_version`` is the oldest version that will do; ``first`` a package that pip must install before the extra.
    """
    try:
        with _no_warning_of_enums():
            module = importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, extra, needed_for, first=first) from error
    if minimum_version is not None:
        installed_version = metadata.version(package)
        if _numbers(installed_version) < _numbers(minimum_version):
            raise MissingExtraError(package, extra, needed_for, least=minimum_version, found=installed_version)
    return module


@contextmanager
def _no_warning_of_enums() -> Iterator[None]:
    """While torchao is imported, torch logs that its enums are registered in an old way, which no user can change."""
    log = logging.getLogger("torch.utils._pytree")
    log.addFilter(_of_no_enum)
    try:
        yield
    finally:
        log.removeFilter(_of_no_enum)


def _of_no_enum(record: logging.LogRecord) -> bool:
    return "register_constant() on Enum" not in str(record.msg)


def _numbers(version: str) -> tuple[int, ...]:
    """``1.23.0rc1+cpu`` as ``(1, 23, 0)``."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", version)[0]))
