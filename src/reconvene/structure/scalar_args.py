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

from reconvene.structure.labels import dimension_size, is_labelled
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
_ALIAS = torch.ops.aten.alias.default
_PLAIN = frozenset({int, float, bool, type(None), list, str})
_TENSORS = frozenset({Tensor, torch.nn.Parameter})
_MOST = 4096
"""Numbers in a constant tensor that a plan still writes down."""


def constant_arguments(recording: Recording) -> Leaves:
    """Constant tensors that calls of the eval pass read at the top level of their arguments."""
    recorded_ids = {id(t) for t in (*recording.parameters.values(), *recording.inputs)}
    twins: dict[int, Tensor] = {}
    constants: Leaves = {}
    for number, op in enumerate(recording.ops):
        if op.training:
            break
        for position, value in enumerate(op.args):
            if type(value) in _PLAIN or not isinstance(value, Tensor) or id(value) in recorded_ids:
                continue
            leaf = twins.get(id(value), value)
            if not leaf.is_meta:
                constants.setdefault(number, {})[position] = leaf
        first = op.outs[0] if op.func is _ALIAS and number in constants else None
        if first is not None and first.is_meta:
            twins[id(first)] = constants.pop(number)[0]  # only a recording makes this call
        else:
            recorded_ids.update(map(id, op.outs))
    return constants


def following_numbers(
    context: Context,
    expected_op: Op,
    actual_op: Op,
    mask: NDArray[Any],
    constants: tuple[dict[int, Tensor], dict[int, Tensor]],
) -> tuple[Numbers, str]:
    """Arguments that are other numbers in the smaller model, and what is wrong with them if they cannot be followed."""
    numbers: Numbers = {}
    for position, leaf in constants[0].items():
        small_value = constants[1].get(position)
        if small_value is None or small_value.shape != leaf.shape or small_value.dtype != leaf.dtype:
            return {}, "it reads a constant tensor of another kind in the smaller model"
        if torch.equal(leaf, small_value) or leaf.isnan().any():
            continue
        if leaf.numel() > _MOST or not small_value.isfinite().all():
            return {}, "it reads a table whose values follow a width"
        numbers[str(position)] = small_value.tolist()
    if not _differ(expected_op, actual_op):
        return numbers, ""
    for (key, name, dense_value), (_, _, small_value) in zip(
        _arguments(expected_op), _arguments(actual_op), strict=True
    ):
        if (
            isinstance(dense_value, Tensor)
            or isinstance(small_value, Tensor)
            or _same(dense_value, small_value)
            or _is_size(expected_op, name)
        ):
            continue
        wrong, follows = _check_argument(context, expected_op, name, dense_value, small_value, mask)
        if wrong:
            return {}, wrong
        if follows:
            numbers[key] = small_value
    return numbers, ""


def _differ(expected_op: Op, actual_op: Op) -> bool:
    """Whether any argument that is no tensor differs: nearly always none does, so this comes first."""
    if len(expected_op.args) != len(actual_op.args) or expected_op.kwargs.keys() != actual_op.kwargs.keys():
        return True
    for dense_value, small_value in zip(expected_op.args, actual_op.args, strict=True):
        if type(dense_value) not in _TENSORS and not _alike(dense_value, small_value):
            return True
    if not expected_op.kwargs:
        return False
    values = zip(expected_op.kwargs.values(), actual_op.kwargs.values(), strict=True)
    return not all(_alike(dense_value, small_value) for dense_value, small_value in values)


def _alike(first: Any, second: Any) -> bool:
    """Whether two values are the same, or tensors, which are compared by their shapes."""
    return isinstance(first, Tensor) or isinstance(second, Tensor) or _same(first, second)


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if type(first) is int and type(second) is int:  # nearly always
        return first == second
    if type(first) is list and type(second) is list and {*map(type, first), *map(type, second)} == {int}:
        return first == second
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, (torch.Generator, torch.ScriptObject)) or isinstance(
        second, (torch.Generator, torch.ScriptObject)
    ):
        return True  # handles (of a profiler's record) that hold no number
    return bool(first == second) or (
        isinstance(first, float) and isinstance(second, float) and first != first and second != second
    )


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


def _check_argument(
    context: Context, op: Op, name: str, dense_value: Any, small_value: Any, mask: NDArray[Any]
) -> tuple[str, bool]:
    """What is wrong with this argument of the smaller model, and whether the reference must take it over."""
    values = small_value if isinstance(small_value, (list, tuple)) else [small_value]
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
        return f"its argument {name} is {small_value} instead of {dense_value} in the smaller model", False
    if any(isinstance(v, float) for v in (*values, dense_value)) or _takes_any_number(op, name):
        return "", True
    if name not in _PLACES:
        return f"its argument {name} is {small_value} instead of {dense_value} in the smaller model", False
    axis = {argument: value for _, argument, value in _arguments(op)}.get("dim")
    if not isinstance(axis, int) or not isinstance(op.args[0], Tensor) or not context.dims(op.args[0]):
        return "", True
    dim = context.dims(op.args[0])[axis]
    if not is_labelled(dim) or len(kept_positions(dim, mask)) == dimension_size(dim):
        return "", True
    if name == "start" and isinstance(dense_value, int):
        start = max(dense_value + dimension_size(dim), 0) if dense_value < 0 else dense_value
        expected = int((kept_positions(dim, mask) < start).sum())
        actual = small_value + len(kept_positions(dim, mask)) if small_value < 0 else small_value
        return ("" if actual == expected else f"the smaller model cuts at {actual} instead of {expected}"), False
    return "", False


def _takes_any_number(op: Op, name: str) -> bool:
    """Whether the argument is a value, not a size or a place; a plain number may stand for a tensor."""
    return any(
        argument.name == name and str(argument.type).removeprefix("Optional[").removesuffix("]") in _VALUES
        for argument in op.func._schema.arguments
    )
