"""Conversions shared by exports of one network: float32, int8, trials and stopwatch begin with the same graph.

Turning a network of twenty layers into a graph takes seconds, which ``run`` would spend fourteen times. Within
``shared_conversions`` a network must not change.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.utils import _pytree as pytree

from reconvene.deploy.runtimes.base import Written

_T = TypeVar("_T")


@dataclass(eq=False)
class _Shared:
    folder: Path
    values: dict[Hashable, Any] = field(default_factory=dict)
    owners: list[object] = field(default_factory=list)
    """Kept, so that no other object gets the identity of one that a key names."""


_ACTIVE: ContextVar[_Shared | None] = ContextVar("shared conversions", default=None)


@contextmanager
def shared_conversions() -> Iterator[None]:
    """Within: a network is converted once for each runtime and form. Inside another such block, that one goes on."""
    if _ACTIVE.get() is not None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="reconvene-conversions-") as folder:
        token = _ACTIVE.set(_Shared(Path(folder)))
        try:
            yield
        finally:
            _ACTIVE.reset(token)


def once(owner: object, key: Hashable, compute: Callable[[], _T]) -> _T:
    """The value of ``key`` for one object, computed once within ``shared_conversions``."""
    shared = _ACTIVE.get()
    if shared is None:
        return compute()
    full_key = (id(owner), key)
    if full_key not in shared.values:
        shared.values[full_key] = compute()
        shared.owners.append(owner)
    value: _T = shared.values[full_key]
    return value


def written_once(model: object, key: Hashable, path: Path, write: Callable[[Path], Written]) -> Written:
    """The files that ``write`` makes of a model at ``path``; a copy of them where they were written before."""
    shared = _ACTIVE.get()
    if shared is None:
        return write(path)
    shared_file = once(model, key, lambda: write(Path(tempfile.mkdtemp(dir=shared.folder)) / path.name))
    if len(shared_file.files) > 1 and shared_file.files[0].name != path.name:
        return write(path)  # a file of weights is named inside the graph
    files = (path, *(path.with_name(file.name) for file in shared_file.files[1:]))
    for file, target in zip(shared_file.files, files, strict=True):
        shutil.copyfile(file, target)
    return replace(shared_file, files=files)


def form_of(inputs: Any) -> Hashable:
    """What a conversion reads of example inputs: their structure, shapes and types, and all that is no tensor."""
    values, spec = pytree.tree_flatten(inputs)
    parts = ((tuple(v.shape), v.dtype) if isinstance(v, Tensor) else repr(v) for v in values)
    return (repr(spec), *parts)
