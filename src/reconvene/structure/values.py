"""Values that a forward pass reads, for a recording on tensors that have none.

A tensor on meta has a shape and no values, so ``if x.isnan().any()``, ``x.item()`` and a boolean mask have no answer
there. A model that asks such questions is run once on its real tensors. The answers of that run, and the lengths of
results that depend on values (``nonzero``), then answer the same questions on meta: for the dense model, and for every
smaller one that is tried, so that both take the same branches and every call and shape can be compared.

The questions of two runs are matched by the layer that asks, the operator, the operator that computed the tensor, and
their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from reconvene.structure.dispatch import DispatchMode
from reconvene.structure.inputs import tensors_in
from reconvene.structure.patches import patched

Question = tuple[bool, str, str, str]
"""``(training, layer, operator, operator that computed the tensor)``."""
_INDEX = torch.ops.aten.index.Tensor
_LENGTH_BY_VALUE = {"torchvision::nms"}
"""Operators whose result is as long as values say and that do not carry PyTorch's tag for it."""
COPIES = {torch.ops.aten.clone.default, torch.ops.aten.alias.default, torch.ops.aten.detach.default}
"""Calls whose result holds the same data: whether a model makes them depends on memory layout and device."""
_METHODS = ("tolist", "numpy", "__array__")
"""Methods of tensors that read values without a call that a dispatch mode sees."""


@dataclass(frozen=True)
class ValueRead:
    """Stands where an ATen operator stands in a recorded call: code takes the values of a tensor out of PyTorch."""

    method: str
    tags: tuple[Any, ...] = ()
    namespace: str = "value"

    @property
    def __name__(self) -> str:
        return self.method

    @property
    def overloadpacket(self) -> ValueRead:
        """The operator without overload: the same."""
        return self

    def __str__(self) -> str:
        return f"value::{self.method}"


class MissingValueError(NotImplementedError):
    """A forward pass read a value of a tensor on meta, and no run on real tensors has answered it."""


@dataclass
class ValueAnswers:
    """Answers of the runs on real tensors, in the order of the questions; ``modes`` says which runs there were."""

    answers: dict[Question, list[Any]] = field(default_factory=dict)
    modes: set[bool] = field(default_factory=set)

    def add(self, question: Question, answer: Any) -> None:
        """Note the next answer to a question."""
        self.answers.setdefault(question, []).append(answer)


def reads_values(func: Any, args: Sequence[Any]) -> bool:
    """Whether the result of a call, or its shape, depends on values."""
    return any(_is_mask(index) for index in args[1]) if func is _INDEX else _always_reads(func)


@cache
def _always_reads(func: Any) -> bool:
    tags = getattr(func, "tags", ())
    tagged = torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags
    return tagged or operator_name(func) in _LENGTH_BY_VALUE


class ValueCollector(DispatchMode):  # type: ignore[no-untyped-call]
    """Collects the answers of a run on real tensors."""

    def __init__(self, values: ValueAnswers, stack: Sequence[str], training: bool) -> None:
        super().__init__()
        self.values, self.stack, self.training = values, stack, training
        self.producers: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the call, and note its result if that depends on values."""
        out = func(*args, **(kwargs or {}))
        tensors = tensors_in(args)
        producer = self.producers.get(tensors[0], "") if tensors else ""
        if reads_values(func, args):
            answer = _mask_positions(args[1]) if func is torch.ops.aten.index.Tensor else copied(out)
            self.values.add((self.training, self.stack[-1], operator_name(func), producer), answer)
        for tensor in tensors_in(out):
            self.producers[tensor] = producer if func in COPIES else operator_name(func)
        return out


@contextmanager
def noted_methods(values: ValueAnswers, stack: Sequence[str], training: bool) -> Iterator[None]:
    """Note what ``x.tolist()`` and ``x.numpy()`` answer in a run on real tensors."""

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            answer = method(tensor, *args, **kwargs)
            values.add((training, stack[-1], name, ""), copied(answer))
            return answer

        return call

    with patched([(Tensor, name, noting(name, getattr(Tensor, name))) for name in _METHODS]):
        yield


class RecordedAnswers:
    """Hands out answers in order during one recorded pass."""

    def __init__(self, values: ValueAnswers, stack: Sequence[str], training: bool) -> None:
        self.values, self.stack, self.training = values, stack, training
        self.turns: Counter[Question] = Counter()
        self.lacking = False
        self.guards: dict[str, None] = {}
        """Operators and layers of the answers that were handed out."""

    def skip(self, name: str, producer: str) -> None:
        """Count a question that the recording answers itself, since its tensor has values."""
        self.turns[self.training, self.stack[-1], name, producer] += 1

    def next(self, name: str, producer: str) -> Any:
        """The next answer to a question. Raises MissingValueError where no run has answered it."""
        question = (self.training, self.stack[-1], name, producer)
        turn, answers = self.turns[question], self.values.answers.get(question, [])
        self.turns[question] += 1
        layer = self.stack[-1] or "the model itself"
        if turn >= len(answers):
            self.lacking = True
            raise MissingValueError(f"{name} in {layer} reads a value, which a tensor on meta does not have")
        self.guards[f"{name.removeprefix('aten::').lstrip('_')} in {layer}"] = None
        return answers[turn]

    @contextmanager
    def methods(self, note: Callable[[ValueRead, Tensor], None]) -> Iterator[None]:
        """Answer ``x.tolist()`` and ``x.numpy()`` of tensors on meta, and ``note`` each call."""

        def answering(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
            def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                if tensor.is_meta:
                    note(ValueRead(name), tensor)
                    return copied(self.next(name, ""))
                self.skip(name, "")
                return method(tensor, *args, **kwargs)

            return call

        with patched(
            [(Tensor, name, answering(name, getattr(Tensor, name))) for name in _METHODS]
            + [(Tensor, "__format__", _formatted)]
        ):
            yield


_format: Callable[[Tensor, str], str] = Tensor.__format__


def _formatted(tensor: Tensor, spec: str) -> str:
    """``f"{x:.3f}"``, by the item of ``x`` on every device, as PyTorch does where there are values."""
    return format(tensor.item(), spec) if tensor.ndim == 0 else _format(tensor, spec)


def answered(func: Any, args: Sequence[Any], kwargs: dict[str, Any], answer: Any) -> Any:
    """The result of a call that reads values, from the answer of the run on real tensors.

    Indices and masks keep their values, so that code may look at them; other tensors are on meta where the call is.
    """
    meta = any(tensor.is_meta for tensor in tensors_in(args))
    if func is torch.ops.aten.index.Tensor:
        device = "meta" if meta else args[0].device
        indices = [
            [p.to(device) for p in positions] if positions else [index]
            for index, positions in zip(args[1], answer, strict=True)
        ]
        return func(args[0], [index for positions in indices for index in positions], *args[2:], **kwargs)
    out = copied(answer)
    return _map(lambda t: t.to("meta") if meta and t.is_floating_point() else t, out)


def copied(answer: Any) -> Any:
    """A copy that a forward pass may write to."""
    if isinstance(answer, (list, tuple)):
        return type(answer)(copied(item) for item in answer)
    if isinstance(answer, Tensor):
        return answer.detach().clone()
    return answer.copy() if hasattr(answer, "copy") else answer


def _map(change: Callable[[Tensor], Tensor], out: Any) -> Any:
    if isinstance(out, (list, tuple)):
        return type(out)(_map(change, item) for item in out)
    return change(out) if isinstance(out, Tensor) else out


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _mask_positions(indices: Sequence[Any]) -> list[tuple[Tensor, ...] | None]:
    """For every mask among indices, the positions that it picks, one vector a dimension."""
    return [index.nonzero(as_tuple=True) if _is_mask(index) else None for index in indices]


@cache
def operator_name(func: Any) -> str:
    """Name of an operator without overload, such as ``aten::index``."""
    return str(func.name()).partition(".")[0] if hasattr(func, "name") else str(func)
