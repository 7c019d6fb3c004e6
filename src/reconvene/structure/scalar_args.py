"""Numbers in calls: those that a model's code computes from a width, compared between the dense and the smaller model.

A number that follows a width (``x / x.shape[1]``, an epsilon, a padding, a fill value, a constant tensor) is no size
of any tensor, so shapes do not show it. The smaller model computes with another number than the dense one, and the
silenced reference must compute with the smaller model's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from reconvene.structure.labels import is_labelled, size_of
from reconvene.structure.pruned_sizes import kept_positions
from reconvene.structure.recording import Op, Recording
from reconvene.structure.rules import Context

Numbers = dict[str, Any]
"""Arguments of a call by position (``"1"``) or, where it can only be given so, by name: numbers, or lists of them."""
RESULT = "result"
"""Key of the number that a call gives, in place of arguments."""
Leaves = dict[int, dict[int, Tensor]]
"""Per call, by position: tensors that no recorded call made, such as ``torch.tensor(width)``."""

_SIZES = {
    *("size", "shape", "sizes", "split_size", "split_sizes", "sections", "normalized_shape", "repeats", "chunks"),
    *("N", "C", "HxW", "group", "groups", "self_size", "output_size", "input_size", "unflattened_size"),
}
"""Arguments that are sizes of tensors: labels predict them, and comparing shapes holds the smaller model to them."""
_PLACES = {
    *("start", "end", "step", "length", "index", "shifts", "diagonal", "offset", "divisor_override", "high", "low"),
    *("stride", "padding", "dilation", "kernel_size", "output_padding", "k", "n", "steps", "correction", "pad", "dims"),
}
"""Whole numbers that say where or how far: another one computes something else."""
_VALUES = {"number", "float", "Tensor"}
_STRIDED = {"as_strided", "empty_strided", "new_empty_strided"}
_MOST = 4096
"""Numbers in a constant tensor that a plan still writes down."""


def leaves(recording: Recording) -> Leaves:
    """Constant tensors that calls of the eval pass read at the top level of their arguments."""
    known = {id(t) for t in (*recording.parameters.values(), *recording.inputs)}
    twins: dict[int, Tensor] = {}
    found: Leaves = {}
    for number, op in enumerate(recording.ops):
        if op.training:
            break
        for position, value in enumerate(op.args):
            if not isinstance(value, Tensor) or id(value) in known:
                continue
            leaf = twins.get(id(value), value)
            if not leaf.is_meta:
                found.setdefault(number, {})[position] = leaf
        outs = [out for out in op.outs if out is not None]
        if op.func is torch.ops.aten.alias.default and number in found and outs[0].is_meta:
            twins[id(outs[0])] = found.pop(number)[0]  # only a recording makes this call
        else:
            known.update(id(out) for out in outs)
    return found


def following_numbers(
    context: Context, want: Op, got: Op, kept: NDArray[Any], constants: tuple[dict[int, Tensor], dict[int, Tensor]]
) -> tuple[Numbers, str]:
    """Arguments that are other numbers in the smaller model, and what is wrong with them if they cannot be followed."""
    numbers: Numbers = {}
    for position, leaf in constants[0].items():
        other = constants[1].get(position)
        if other is None or other.shape != leaf.shape or other.dtype != leaf.dtype:
            return {}, "it reads a constant tensor of another kind in the smaller model"
        if torch.equal(leaf, other) or leaf.isnan().any():
            continue
        if leaf.numel() > _MOST or not other.isfinite().all():
            return {}, "it reads a table whose values follow a width"
        numbers[str(position)] = other.tolist()
    if not _differ(want, got):
        return numbers, ""
    for (key, name, one), (_, _, other) in zip(_arguments(want), _arguments(got), strict=True):
        if isinstance(one, Tensor) or isinstance(other, Tensor) or _same(one, other) or _is_size(want, name):
            continue
        wrong, follows = _place(context, want, name, one, other, kept)
        if wrong:
            return {}, wrong
        if follows:
            numbers[key] = other
    return numbers, ""


def _differ(want: Op, got: Op) -> bool:
    """Whether any argument that is no tensor differs: nearly always none does, so this comes first."""
    if len(want.args) != len(got.args) or want.kwargs.keys() != got.kwargs.keys():
        return True
    values = zip((*want.args, *want.kwargs.values()), (*got.args, *got.kwargs.values()), strict=True)
    return any(not (isinstance(a, Tensor) or isinstance(b, Tensor) or _same(a, b)) for a, b in values)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(
            isinstance(a, Tensor) or isinstance(b, Tensor) or _same(a, b) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, (torch.Generator, torch.ScriptObject)) or isinstance(
        other, (torch.Generator, torch.ScriptObject)
    ):
        return True  # handles (of a profiler's record) that hold no number
    return bool(one == other) or (isinstance(one, float) and isinstance(other, float) and one != one and other != other)


def _arguments(op: Op) -> Iterator[tuple[str, str, Any]]:
    """``(key, name, value)`` of every argument of an operator, defaults filled in."""
    schema = getattr(op.func, "_schema", None)
    for position, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.kwarg_only:
            yield argument.name, argument.name, op.kwargs.get(argument.name, argument.default_value)
        elif position < len(op.args):
            yield str(position), argument.name, op.args[position]
        else:
            yield str(position), argument.name, op.kwargs.get(argument.name, argument.default_value)


def _is_size(op: Op, name: str) -> bool:
    return name in _SIZES or (
        name in ("stride", "storage_offset") and op.func.overloadpacket.__name__.removesuffix("_") in _STRIDED
    )


def _place(context: Context, op: Op, name: str, one: Any, other: Any, kept: NDArray[Any]) -> tuple[str, bool]:
    """What is wrong with this argument of the smaller model, and whether the reference must take it over."""
    values = other if isinstance(other, (list, tuple)) else [other]
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
        return f"its argument {name} is {other} instead of {one} in the smaller model", False
    if any(isinstance(v, float) for v in (*values, one)) or _takes_any_number(op, name):
        return "", True
    if name not in _PLACES:
        return f"its argument {name} is {other} instead of {one} in the smaller model", False
    axis = {argument: value for _, argument, value in _arguments(op)}.get("dim")
    if not isinstance(axis, int) or not isinstance(op.args[0], Tensor) or not context.dims(op.args[0]):
        return "", True
    dim = context.dims(op.args[0])[axis]
    if not is_labelled(dim) or len(kept_positions(dim, kept)) == size_of(dim):
        return "", True
    if name == "start" and isinstance(one, int):
        start = max(one + size_of(dim), 0) if one < 0 else one
        expected = int((kept_positions(dim, kept) < start).sum())
        actual = other + len(kept_positions(dim, kept)) if other < 0 else other
        return ("" if actual == expected else f"the smaller model cuts at {actual} instead of {expected}"), False
    return "", False


def _takes_any_number(op: Op, name: str) -> bool:
    """Whether the argument is a value, not a size or a place; a plain number may stand for a tensor."""
    return any(
        argument.name == name and str(argument.type).removeprefix("Optional[").removesuffix("]") in _VALUES
        for argument in op.func._schema.arguments
    )
