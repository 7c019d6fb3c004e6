"""Hand out traced sizes while a forward pass is recorded, and note where they come back.

Methods of tensors and functions of torch that give or take sizes are patched for a while; attributes of modules that
are whole numbers become traced. Everything patched is put back, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.structure.patches import patched
from reconvene.structure.traced_size import SizeLog, TracedSize
from reconvene.utils.module_tree import named_modules


@contextmanager
def traced_sizes(model: nn.Module, log: SizeLog) -> Iterator[None]:
    """Hand out traced sizes while a forward pass runs."""
    with _attributes(model, log), _tensor_methods(log):
        yield


@contextmanager
def _attributes(model: nn.Module, log: SizeLog) -> Iterator[None]:
    replaced: list[tuple[nn.Module, str, Any, Any]] = []
    try:
        for path, module in named_modules(model):
            for name, value in list(module.__dict__.items()):
                traced = _traced(value, path, name, log) if type(value) in _TRACEABLE else None
                if traced is not None:
                    module.__dict__[name] = traced
                    replaced.append((module, name, value, traced))
        yield
    finally:
        for module, name, value, traced in replaced:
            now = module.__dict__.get(name)
            if now is traced:
                module.__dict__[name] = value
            elif isinstance(now, TracedSize):  # the forward pass itself counted it up
                module.__dict__[name] = int(now)


_TRACEABLE = frozenset({int, tuple, list})


def _traced(value: Any, path: str, name: str, log: SizeLog) -> Any:
    """The attribute as traced sizes; ``None`` if it is not about sizes."""
    if type(value) is int and value > 1:
        return TracedSize(value, ("attr", path, name, None, value), log)
    if type(value) in (tuple, list) and value and all(type(v) is int for v in value):
        return type(value)(TracedSize(v, ("attr", path, name, i, v), log) for i, v in enumerate(value))
    return None


@contextmanager
def _tensor_methods(log: SizeLog) -> Iterator[None]:
    """Methods of tensors, and functions of torch, that give or take sizes."""
    noted = [
        *((torch.Tensor, name, note) for name, note in _METHODS.items()),
        *((torch, name, note) for name, note in _FUNCTIONS.items()),
        *((owner, f"conv{n}d", _convolved) for n in (1, 2, 3) for owner in (torch, torch.nn.functional)),
    ]
    changes = [
        (torch.Tensor, "shape", property(lambda tensor: _shape(tensor, log))),
        (torch.Tensor, "size", lambda tensor, dim=None: _size(tensor, dim, log)),
        *((owner, name, _noting(getattr(owner, name), note, log)) for owner, name, note in noted),
    ]
    with patched(changes):
        yield


_plain_shape = torch._C.TensorBase.shape.__get__  # type: ignore[attr-defined]


def _shape(tensor: Tensor, log: SizeLog) -> torch.Size:
    plain = _plain_shape(tensor)
    if not log.active or not plain:
        return plain  # type: ignore[no-any-return]
    return torch.Size([TracedSize(n, ("dim", tensor, axis), log) for axis, n in enumerate(plain)])


def _size(tensor: Tensor, dim: Any, log: SizeLog) -> Any:
    shape = _shape(tensor, log)
    return shape if dim is None else shape[dim]


def _noting(function: Callable[..., Any], note: Callable[..., None], log: SizeLog) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not log.active:
            return function(*args, **kwargs)
        out = function(*args, **kwargs)
        note(log, out, *args, **kwargs)
        return out

    return call


def _sizes(values: Sequence[Any]) -> Sequence[Any]:
    """Sizes given one by one or as one sequence."""
    return values[0] if len(values) == 1 and isinstance(values[0], (tuple, list)) else values


def _viewed(log: SizeLog, out: Any, tensor: Any, *sizes: Any, **named: Any) -> None:
    if named:
        sizes = (*sizes, *named.values())
    for axis, size in enumerate(_sizes(sizes)):
        log.sized(out, axis, size)
        if type(size) is int and size > 1:
            log.literal.setdefault(id(out), []).append(axis)


def _unflattened(log: SizeLog, out: Any, tensor: Any, dim: Any = 0, sizes: Any = (), **_: Any) -> None:
    first = int(dim) + (tensor.ndim if dim < 0 else 0)
    for offset, size in enumerate(sizes):
        log.sized(out, first + offset, size)


def _created(log: SizeLog, out: Any, *sizes: Any, **_: Any) -> None:
    for axis, size in enumerate(_sizes([s for s in sizes if isinstance(s, (int, tuple, list))])):
        log.sized(out, axis, size)


def _created_like(log: SizeLog, out: Any, tensor: Any, *sizes: Any, **_: Any) -> None:
    _created(log, out, *sizes)


def _split(log: SizeLog, out: Any, tensor: Any, sizes: Any = None, dim: Any = 0, **named: Any) -> None:
    sizes = named.get("split_size_or_sections", named.get("split_size", sizes))
    axis = int(dim) + (tensor.ndim if dim < 0 else 0)
    # The last piece of equal ones takes what is left, so its size is not given.
    pieces = list(sizes) if isinstance(sizes, (tuple, list)) else [sizes] * (len(out) - 1)
    for piece, size in zip(out, pieces, strict=False):
        log.sized(piece, axis, size)
    if isinstance(sizes, (tuple, list)) and all(isinstance(size, TracedSize) for size in pieces):
        log.known_cuts.update(id(piece) for piece in out)


def _chunked(log: SizeLog, out: Any, tensor: Any, chunks: Any = None, dim: Any = 0) -> None:
    log.chunks.update(id(piece) for piece in out)


def _narrowed(log: SizeLog, out: Any, tensor: Any, dim: Any, start: Any, length: Any) -> None:
    if not isinstance(start, Tensor):
        _cut(log, out, tensor, int(dim) + (tensor.ndim if dim < 0 else 0), start, start + length)


def _indexed(log: SizeLog, out: Any, tensor: Any, index: Any) -> None:
    """``x[:, a:b]``: only slices and one ellipsis; anything else moves dimensions about."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(isinstance(p, slice) or p is Ellipsis for p in parts) or not isinstance(out, Tensor):
        return
    if any(p is Ellipsis for p in parts):
        ellipsis_index = next(i for i, p in enumerate(parts) if p is Ellipsis)
        parts[ellipsis_index : ellipsis_index + 1] = [slice(None)] * (tensor.ndim - len(parts) + 1)
    for axis, part in enumerate(parts):
        if (isinstance(part.start, TracedSize) or isinstance(part.stop, TracedSize)) and part.step in (None, 1):
            _cut(log, out, tensor, axis, part.start, part.stop)


def _cut(log: SizeLog, out: Any, tensor: Any, axis: int, start: Any, stop: Any) -> None:
    full_size = TracedSize(_plain_shape(tensor)[axis], ("dim", tensor, axis), log)
    first = 0 if start is None else start if start >= 0 else full_size + start
    last = full_size if stop is None else stop if stop >= 0 else full_size + stop
    last = full_size if int(last) > int(full_size) else last
    if int(first) == 0:
        log.sized(out, axis, last)
    elif int(last) == int(full_size):
        log.sized(out, axis, full_size - first)
    else:
        return
    log.known_cuts.add(id(out))


def _convolved(
    log: SizeLog,
    out: Any,
    tensor: Any,
    weight: Any = None,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> None:
    if isinstance(groups, TracedSize) and out.ndim == tensor.ndim == weight.ndim:
        log.equal(groups.expression, ("/", ("dim", tensor, 1), ("dim", weight, 1)))


def _normalised(log: SizeLog, out: Any, tensor: Any, normalized_shape: Any, *_: Any, **__: Any) -> None:
    for offset, size in enumerate(reversed(normalized_shape)):
        log.sized(tensor, tensor.ndim - 1 - offset, size)


_METHODS: dict[str, Callable[..., None]] = {
    "view": _viewed,
    "reshape": _viewed,
    "expand": _viewed,
    "broadcast_to": _viewed,
    "unflatten": _unflattened,
    "split": _split,
    "split_with_sizes": _split,
    "narrow": _narrowed,
    "chunk": _chunked,
    "__getitem__": _indexed,
    "new_zeros": _created_like,
    "new_ones": _created_like,
    "new_empty": _created_like,
    "new_full": lambda log, out, tensor, sizes, *_, **__: _created(log, out, sizes),
}
_FUNCTIONS: dict[str, Callable[..., None]] = {
    "layer_norm": _normalised,  # not those of torch.nn.functional, which other libraries import by name
    "rms_norm": _normalised,
    "chunk": _chunked,
    "reshape": _viewed,
    "broadcast_to": _viewed,
    "unflatten": _unflattened,
    "split": _split,
    "narrow": _narrowed,
    "zeros": _created,
    "ones": _created,
    "empty": _created,
    "randn": _created,
    "full": lambda log, out, sizes, *_, **__: _created(log, out, sizes),
}
