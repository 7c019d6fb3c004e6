"""A recorded forward pass: every ATen call, with the identity of the tensors it read and made."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

from reconvene.structure.sizes import SizeLog
from reconvene.structure.values import Values


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

    @property
    def name(self) -> str:
        """Overload name, such as ``aten.convolution.default``."""
        return _name(self.func)

    @property
    def site(self) -> str:
        """Where a person finds this call: the operator and the layer that made it."""
        return f"{_short_name(self.func)} in {self.owner or 'the model itself'}"


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
    notes: list[str] = field(default_factory=list)
    values: Values = field(default_factory=Values)
    """What runs on real tensors answered to code that reads values."""
    lacking: set[bool] = field(default_factory=set)
    """Modes (training or not) in which the forward pass read a value that nothing has answered."""
    guards: dict[str, None] = field(default_factory=dict)
    """Operators and layers that read values on meta: the calls are those of the branch that the answers take."""
