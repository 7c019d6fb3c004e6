"""Reading what somebody else may have written: regular files of a checked size, JSON that ends, values of one type.

Nothing here opens a path, or allocates memory, only because a manifest says so.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from reconvene.errors import ArtifactError

if TYPE_CHECKING:
    from reconvene.surgery import Plan

_DIGEST = re.compile(r"[0-9a-f]{64}")


def size_of(path: Path) -> int | None:
    """Bytes of a regular file, links followed; None where there is nothing. Raises ArtifactError for anything else."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or type(error).__name__}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path} is no regular file, and an artifact is made of those only")
    return status.st_size


def read_bytes(path: Path, *, limit: int) -> bytes:
    """A regular file of at most ``limit`` bytes. Raises ArtifactError: missing, larger, or no regular file."""
    try:
        # Without waiting: opening a named pipe would last until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{path} is no regular file, and an artifact is made of those only")
            if status.st_size > limit:
                raise ArtifactError(f"{path} has {status.st_size:,} bytes, and at most {limit:,} are expected there")
            return file.read(limit)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or type(error).__name__}") from error


def parse_json(data: bytes, path: Path) -> Any:
    """The value of JSON bytes. Raises ArtifactError for anything else, nesting without end among it."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise ArtifactError(f"{path} is truncated or no JSON at all: {error}") from error
    except RecursionError as error:
        raise ArtifactError(f"{path} is nested too deep to be read") from error


def check_manifest(data: Mapping[str, Any], path: Path, *, names: frozenset[str], required: str) -> None:
    """Raise ArtifactError unless every entry of a manifest has the type that it must have.

    ``names`` are all file names that it may list, ``required`` the one that it must: no other path is ever opened.
    """
    wrong: list[str] = []
    files = data.get("files")
    if not isinstance(files, dict) or not {required} <= files.keys() <= names:
        wrong.append(f"files must name {required} and may name {', '.join(sorted(names))}, nothing else")
    elif not all(map(_describes_file, files.values())):
        wrong.append("each of files needs a sha256 and its bytes")
    if not _maps(data.get("aliases"), str):
        wrong.append("aliases must map names to names")
    if not isinstance(data.get("measurements"), dict):
        wrong.append("measurements must be an object")
    if not isinstance(data.get("reconvene"), str):
        wrong.append("reconvene must be a version")
    if not isinstance(data.get("model"), dict):
        wrong.append("model must be an object")
    if "versions" in data and not _maps(data["versions"], int):
        wrong.append("versions of modules are whole numbers")
    if wrong:
        raise ArtifactError(f"{path} does not say what it must: {'; '.join(wrong)}")


def check_attributes(plan: Plan, model: nn.Module) -> None:
    """Raise ArtifactError unless a plan changes only what plans change: sizes that a module keeps as its attributes.

    The analysis behind a plan notes whole numbers, and tuples of them, that follow the shape of a tensor. Everything
    else that can be set on a module (``forward``, hooks, a submodule) would change what its code does.
    """
    modules = dict(model.named_modules())
    for path, name, value in plan.attributes:
        # What every module has is no size. Statically, since a property could run code.
        settable = path in modules and isinstance(name, str) and not hasattr(nn.Module, name)
        before = inspect.getattr_static(modules[path], name, None) if settable else None
        if not _is_new_size(before, value):
            raise ArtifactError(
                f"the plan sets {path + '.' * bool(path)}{name} to {str(value)[:60]!r}, which is no size that the "
                f"model keeps there: it keeps {type(before).__name__}. Make the plan anew with rc.plan"
            )


def _is_new_size(before: Any, value: Any) -> bool:
    """Whether one whole number takes the place of another, or some of a tuple's do."""
    if type(before) is int or type(value) is int:
        return type(before) is type(value) and value >= 0
    if not (isinstance(before, tuple | list) and isinstance(value, tuple | list) and len(before) == len(value)):
        return False
    return all(
        previous == replacement or _is_new_size(previous, replacement)
        for previous, replacement in zip(before, value, strict=True)
    )


def _describes_file(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
        return False
    digest, size = entry["sha256"], entry["bytes"]
    return isinstance(digest, str) and bool(_DIGEST.fullmatch(digest)) and type(size) is int and size >= 0


def _maps(value: Any, value_type: type) -> bool:
    return isinstance(value, dict) and all(type(item) is value_type for item in value.values())
