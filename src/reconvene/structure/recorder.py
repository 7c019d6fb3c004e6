"""The dispatch mode that records a forward pass: on meta, where nothing is computed, or on real tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from reconvene.structure.dispatch import DispatchMode
from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.meta_kernels import known_result
from reconvene.structure.recording import Op, Recording, writes_in_place
from reconvene.structure.values import COPIES, MissingValueError, RecordedAnswers, answered, operator_name, reads_values

_ATEN = torch.ops.aten


class Recorder(DispatchMode):  # type: ignore[no-untyped-call]
    """Appends every call of one pass to a recording.

    A call on meta takes real tensors (masks, tables made from sizes) as twins of the same labels. Calls on real tensors
    alone run for real, since code may read their values, unless a call on meta has written to them.
    """

    def __init__(self, recording: Recording, stack: Sequence[str], training: bool) -> None:
        super().__init__()
        self.recording, self.stack, self.training = recording, stack, training
        self.answers = RecordedAnswers(recording.values, stack, training)
        self.twins: dict[int, Tensor] = {}
        self.producers: dict[int, str] = {}
        self.data: set[int] = set()
        """Storages of real tensors that hold what the model computes from its weights and inputs."""
        if recording.device == "real":
            self._follow((*recording.parameters.values(), *recording.inputs))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and note one call."""
        self.recording.sizes.active = False  # what kernels do with shapes is their own affair
        try:
            return self._recorded(func, args, kwargs or {})
        finally:
            self.recording.sizes.active = True

    def reading(self) -> AbstractContextManager[None]:
        """Answer methods that read values without a call that a dispatch mode sees."""
        return self.answers.methods(lambda read, tensor: self._note(read, (tensor,), {}, ()))

    def close(self) -> None:
        """Tell the recording which values the pass read."""
        self.recording.guards.update(self.answers.guards)
        if self.answers.lacking:
            self.recording.lacking.add(self.training)

    def _recorded(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensors = tensors_in((args, kwargs)) if kwargs else tensors_in(args)
        on_meta = [tensor.is_meta for tensor in tensors]
        follows = any(on_meta) or (bool(self.data) and any(map(self._follows, tensors)))
        meta = self.recording.device == "meta"
        if meta and follows:
            if not all(on_meta):
                args, kwargs = self._with_twins(func, args, kwargs)
            kwargs = _kept_on_meta(func, kwargs) if kwargs else kwargs
        elif meta:
            kwargs = _with_values(func, args, kwargs)
        if reads_values(func, args):
            out = self._read(func, args, kwargs, follows)
        else:
            out = known_result(func, args, kwargs) if meta and follows else None
            out = _called(func, args, kwargs) if out is None else out
        if isinstance(out, Tensor):
            outs: tuple[Tensor | None, ...] = (out,)
        else:
            results = out if isinstance(out, (tuple, list)) else ()
            outs = tuple(o if isinstance(o, Tensor) else None for o in results)
        self._note(func, tuple(args), kwargs, outs)
        self._trace(func, args, outs, follows)
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outs: tuple[Tensor | None, ...]) -> None:
        self.recording.ops.append(Op(func, args, kwargs, outs, self.stack[-1], self.training))

    def _trace(self, func: Any, args: Sequence[Any], outs: Sequence[Tensor | None], follows: bool) -> None:
        """Note what computed the results, and whether they hold what the model computes."""
        producer = self._producer(args) if func in COPIES else operator_name(func)
        for out in outs:
            if out is not None:
                self.producers[id(out)] = producer
        if follows and self.recording.device == "real":
            self._follow(out for out in outs if out is not None)

    def _producer(self, args: Sequence[Any]) -> str:
        tensors = tensors_in(args)
        return self.producers.get(id(tensors[0]), "") if tensors else ""

    def _read(self, func: Any, args: Any, kwargs: dict[str, Any], follows: bool) -> Any:
        """A call that reads values: of what follows the weights and inputs, those that the real run read."""
        name, producer = operator_name(func), self._producer(args)
        if not follows:
            self.answers.skip(name, producer)
            value = func(*args, **kwargs)
            if isinstance(value, (bool, int, float)):
                self.recording.numbers[len(self.recording.ops)] = value
            return value
        try:
            return answered(func, args, kwargs, self.answers.next(name, producer))
        except MissingValueError:
            if self.recording.device == "meta":
                raise
            return func(*args, **kwargs)

    def _follows(self, tensor: Tensor) -> bool:
        return tensor.is_meta or bool(self.data and _storage(tensor) in self.data)

    def _follow(self, tensors: Iterable[Tensor]) -> None:
        self.data.update(_storage(t) for t in tensors if not t.is_meta and _storage(t))

    def _with_twins(self, func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call on meta with twins of real tensors; one that the call writes to follows from now."""
        written = args[0] if writes_in_place(func) else None
        args = [self._twin(value, is_written=value is written) for value in args]
        kwargs = {key: self._twin(value) for key, value in kwargs.items()}
        if isinstance(written, Tensor) and not written.is_meta:
            self._follow([written])
        return args, kwargs

    def _twin(self, value: Any, *, is_written: bool = False) -> Any:
        """Let a real tensor take part in a call on meta: as a twin of the same labels.

        Scalars stay as they are, unless the call writes to them or has written to them.
        """
        if isinstance(value, Tensor):
            if value.is_meta or (value.ndim == 0 and not is_written and not self._follows(value)):
                return value
            twin = self.twins.get(id(value))
            if twin is None:
                twin = self.twins[id(value)] = value.to("meta")
                self._note(_ATEN.alias.default, (value,), {}, (twin,))
                self.producers[id(twin)] = self.producers.get(id(value), "")
            return twin
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            return [self._twin(v) for v in value]
        return value


def _called(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of a call; of one that has no kernel for meta, the shapes that it gives for zeros."""
    try:
        return func(*args, **kwargs)
    except NotImplementedError:
        if not any(t.is_meta for t in tensors_in((args, kwargs))):
            raise
    zeros: dict[int, Tensor] = {}
    originals: dict[int, Tensor] = {}

    def zero(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        substitute = zeros.setdefault(id(tensor), torch.zeros(tensor.shape, dtype=tensor.dtype))
        originals[id(substitute)] = tensor
        return substitute

    with _disable_current_modes():
        out = func(*map_tensors(zero, tuple(args)), **map_tensors(zero, kwargs))
        return map_tensors(lambda t: originals[id(t)] if id(t) in originals else t.to("meta"), out)


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors and wrappers have none
        return 0


def _kept_on_meta(func: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """``x.cpu()`` of a tensor on meta stays there: there is nothing to copy."""
    moves = func is _ATEN._to_copy.default and kwargs.get("device") is not None
    return {**kwargs, "device": torch.device("meta")} if moves else dict(kwargs)


def _with_values(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positions and masks made for a model that lies on meta itself get values all the same: code looks at them."""
    if torch.device("meta") != kwargs.get("device"):
        return kwargs
    dtype = kwargs.get("dtype") or next((t.dtype for t in tensors_in(args)), None)
    if dtype is None and "arange" in func.name() and all(isinstance(a, int) for a in args):
        dtype = torch.int64
    return {**kwargs, "device": torch.device("cpu")} if dtype is not None and not dtype.is_floating_point else kwargs
