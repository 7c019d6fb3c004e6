"""A recorded forward pass: every ATen call, with the identity of the tensors it read and made."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

from reconvene.structure.inputs import tensors_in
from reconvene.structure.state import StateItem
from reconvene.structure.traced_size import SizeLog
from reconvene.structure.values import ValueAnswers
from reconvene.utils.notes import Note


@dataclass(slots=True)
class Op:
    """One recorded ATen call. Tensors in ``args`` and ``kwargs`` are the recorded objects.

    ``outs`` keeps output order.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[Tensor | None, ...]
    owner: str
    training: bool = False
    _tensors: list[Tensor] | None = field(default=None, repr=False, compare=False)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, in order; one that stands there twice is listed twice."""
        if self._tensors is None:
            self._tensors = tensors_in((self.args, self.kwargs))
        return self._tensors

    @property
    def name(self) -> str:
        """Overload name, such as ``aten.convolution.default``."""
        return _name(self.func)

    @property
    def operator(self) -> str:
        """Short name, such as ``convolution``."""
        return _short_name(self.func)

    @property
    def site(self) -> str:
        """Where a person finds this call: the operator and the layer that made it."""
        return f"{self.operator} in {self.owner or 'the model itself'}"


@cache
def _name(func: Any) -> str:
    return str(func)


@cache
def _short_name(func: Any) -> str:
    name = str(func).removesuffix(".default")
    return name.split(".")[1] if name.startswith("aten.") else name


@dataclass
class Recording:
    """The calls of one forward pass; tensors are kept alive so that identities stay unique."""

    ops: list[Op] = field(default_factory=list)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    """Twin of every parameter and buffer, by its first name in the model."""
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """All names of a tensor that has more than one."""
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    sizes: SizeLog = field(default_factory=SizeLog)
    device: str = "meta"
    notes: list[Note] = field(default_factory=list)
    values: ValueAnswers = field(default_factory=ValueAnswers)
    """What runs on real tensors answered to code that reads values."""
    exits: list[tuple[int, str, list[Tensor], list[Tensor]]] = field(default_factory=list)
    """Where a layer ends: how many calls were made by then, its path, the tensors it was given and those it gave."""
    numbers: dict[int, bool | int | float] = field(default_factory=dict)
    """What calls have read from tensors that are made of sizes and constants alone."""
    lacking: set[bool] = field(default_factory=set)
    """Modes (training or not) in which the forward pass read a value that nothing has answered."""
    written: list[StateItem] = field(default_factory=list)
    """State: what the pass left for the next one in attributes and buffers."""
    guards: dict[str, None] = field(default_factory=dict)
    """Operators and layers that read values on meta: the calls belong to the branch that the answers take."""

    def leave(self, path: str, arguments: Any, output: Any) -> None:
        """Note that a layer has run."""
        self.exits.append((len(self.ops), path, tensors_in(arguments), tensors_in(output)))


@cache
def writes_in_place(func: Any) -> bool:
    """Whether a call changes its first argument in place."""
    schema = getattr(func, "_schema", None)
    alias = schema.arguments[0].alias_info if schema is not None and schema.arguments else None
    return alias is not None and bool(alias.is_write)


def written_by(op: Op) -> list[Tensor]:
    """The arguments that a call changes: the first one of a call in place, and those of ``out=``."""
    schema = getattr(op.func, "_schema", None)
    arguments: list[Any] = schema.arguments if schema is not None else []
    values = [*zip(arguments, op.args, strict=False), *((entry, op.kwargs.get(entry.name)) for entry in arguments)]
    written = [value for entry, value in values if entry.alias_info is not None and entry.alias_info.is_write]
    return [value for value in written if isinstance(value, Tensor)]


def memory_of(tensor: Tensor) -> int:
    """A number of the memory of a recorded tensor, which the recording keeps alive."""
    return int(tensor.untyped_storage()._cdata)
