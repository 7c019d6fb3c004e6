"""Where a network computes non-linear operations, from a recorded run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from reconvene.structure.capture import record_forward
from reconvene.structure.inputs import tensors_in
from reconvene.structure.recording import Op
from reconvene.surgery.operations.forms import calls


@dataclass(frozen=True)
class OperationSite:
    """One place.

    Attributes:
        path: of the module that computes it.
        operation: its name in the table.
        replaceable: whether the module computes nothing else, so that another can stand in its place.
        axis: dimension of the channels, of norms: 1 or -1; of softmax the dimension that sums to one.
        rank: dimensions of the tensor, the batch among them.
    """

    path: str
    operation: str
    replaceable: bool
    axis: int = -1
    rank: int = 4

    def __str__(self) -> str:
        return f"{self.operation} in {self.path or 'the model itself'}"


def find_sites(model: nn.Module, example_inputs: Any) -> list[OperationSite]:
    """Every non-linear operation of the table that a pass in eval mode computes, in the order of the calls."""
    return sites_of(model, record_forward(model, example_inputs).ops)


def sites_of(model: nn.Module, ops: Iterable[Op]) -> list[OperationSite]:
    """The same from calls that were recorded."""
    modules = dict(model.named_modules())
    sites_by_call: dict[tuple[str, str], OperationSite] = {}
    inner: dict[str, list[Op]] = {}
    for op in ops:
        if not op.training:
            inner.setdefault(op.owner, []).append(op)
    for owner, owned in inner.items():
        for op in owned:
            operation = operation_of(op)
            if operation is None:
                continue
            module = modules.get(owner)
            alone = module is not None and not any(True for _ in module.children()) and _is_only(operation, owned)
            site = OperationSite(owner, operation, alone, _axis(operation, op, owned), tensors_in(op.outs)[0].ndim)
            earlier = sites_by_call.setdefault((owner, operation), site)
            if earlier.axis != site.axis:  # one module cannot stand for both
                sites_by_call[owner, operation] = replace(earlier, replaceable=False)
    return list(sites_by_call.values())


def operation_of(op: Op) -> str | None:
    """The operation of the table that a recorded call is; None for what is linear, or not in the table."""
    name = op.operator.removesuffix("_")
    if name not in _CLIPS:
        return calls().get(name)
    low, high = (_argument(op, bound) for bound in _CLIPS[name])
    if low != 0:
        return "clip"
    return {None: "relu", 6: "relu6"}.get(high, "clip")


_CLIPS = {
    "hardtanh": ("min_val", "max_val"),
    "clamp": ("min", "max"),
    "clamp_min": ("min", ""),
    "clamp_max": ("", "max"),
}
"""Calls that clip, and the names of their bounds."""


def _argument(op: Op, name: str) -> Any:
    """The value of an argument by its name in the schema; None where there is no such argument."""
    for position, argument in enumerate(op.func._schema.arguments):
        if argument.name == name:
            return op.args[position] if position < len(op.args) else op.kwargs.get(name, argument.default_value)
    return None


def _is_only(operation: str, owned: Sequence[Op]) -> bool:
    """Whether a module's other calls only arrange what the operation reads, and what it gives is arranged as before."""
    arranging = _PASSING | (_TURNING if operation == "layer_norm" else frozenset())
    owned = [op for op in owned if not all(isinstance(read, nn.Parameter) for read in tensors_in(op.args))]
    others = [op for op in owned if operation_of(op) != operation]
    if not all(op.operator.removesuffix("_") in arranging for op in others):
        return False
    each = len(owned) // (len(owned) - len(others))  # a module that is shared runs several times
    runs = [owned[start : start + each] for start in range(0, len(owned), each)]
    return all(tensors_in(run[0].args)[0].shape == tensors_in(run[-1].outs)[0].shape for run in runs)


_PASSING = frozenset(("clone", "contiguous", "detach", "alias"))
_TURNING = frozenset(("permute", "transpose", "view", "_unsafe_view", "reshape"))


def _axis(operation: str, op: Op, owned: Sequence[Op]) -> int:
    """The dimension along which an operation works; of single numbers the last.

    Of a norm whose input has its channels moved to the end first, as in ConvNeXt, it is the second.
    """
    if operation == "softmax" and (dim := _argument(op, "dim")) is not None:
        return int(dim)
    moved = operation == "layer_norm" and any(other.operator in ("permute", "transpose") for other in owned)
    return 1 if moved else -1
