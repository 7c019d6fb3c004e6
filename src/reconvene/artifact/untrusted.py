"""Reading what somebody else may have written: regular files of a checked size, JSON that ends, values of one type.

Nothing here opens a path, or allocates memory, only because a manifest says so.
"""

from __future__ import annotations

import inspect
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from reconvene.errors import ArtifactError

if TYPE_CHECKING:
    from reconvene.surgery import Plan


def file_bytes(path: Path) -> int | None:
    """Bytes of a regular file, links followed; None where there is nothing. Raises ArtifactError for anything else."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or type(error).__name__}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path} is not a regular file, and an artifact is made of those only")
    return status.st_size


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
                f"the plan sets {path + '.' * bool(path)}{name} to {str(value)[:60]!r}, which is not a size that the "
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
