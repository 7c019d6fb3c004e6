"""Replay: record a smaller model on meta and hold every call and shape against what the labels predict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.errors import StructureError
from reconvene.structure.analysis import Keep, Structure, assemble, label
from reconvene.structure.attributes import Change, attribute_changes
from reconvene.structure.capture import record_forward
from reconvene.structure.labels import Dim, Reason
from reconvene.structure.pruned_sizes import kept_positions, kept_size, settle
from reconvene.structure.recording import Op, Recording
from reconvene.structure.scalar_args import RESULT, Numbers, constant_arguments, following_numbers
from reconvene.utils.notes import Note

_PRODUCTS = {"mm", "bmm", "addmm"}
_AROUND_PRODUCTS = {"view", "_unsafe_view", "expand", "t", "permute", "transpose", "unsqueeze", "squeeze", "add"}
_VIEWS = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}


@dataclass
class _Replay:
    """What a smaller model did: where it disagreed first, if anywhere, and numbers in its code that follow sizes."""

    failure: tuple[int, str] | None = None
    """Number of the first call that is not as predicted, and why."""
    scalars: dict[int, Numbers] = field(default_factory=dict)
    """Per call, arguments that are other numbers than in the dense model (``x / x.shape[1]``)."""


def prove_by_trial(model: nn.Module, example_inputs: Any, structure: Structure) -> Structure:
    """Try every group at half width; pin what disagrees and solve again until nothing does."""
    for attempt in range(2 * len(structure.recording.ops) + 2):  # a view can be pinned in two steps
        if not structure.prunable:
            return structure
        widths = settle(structure.balances, np.maximum(1, (structure.widths + 1) // 2), structure.widths)
        keep = [np.arange(width, dtype=np.int64) for width in widths]
        tried = replay(model, example_inputs, structure, keep)
        if tried.failure is None:
            return structure
        if attempt == 0:
            # The first run of a model may fill caches that later runs use: what they do is what counts.
            again = record_forward(model, example_inputs)
            if [op.func for op in again.ops] != [op.func for op in structure.recording.ops]:
                structure = assemble(again, label(again), list(again.notes))
                continue
        structure = pin_site(model, structure, *tried.failure)
    raise StructureError("the trial run never agreed with the labels; please report this model")


def replay(model: nn.Module, example_inputs: Any, structure: Structure, keep: Keep) -> _Replay:
    """Run the shrunk model on meta and hold every call, shape and number against what the labels predict.

    On meta only widths count, not which channels make them up: the same widths are run once.
    """
    if structure.recording.device != "meta":
        return _replayed(model, example_inputs, structure, keep)
    widths = tuple(len(channels) for channels in keep)
    result: _Replay | None = structure.replays.get(widths)
    if result is None:
        result = structure.replays[widths] = _replayed(model, example_inputs, structure, keep)
    return result


def _replayed(model: nn.Module, example_inputs: Any, structure: Structure, keep: Keep) -> _Replay:
    mask = structure.kept_atoms(keep)
    shapes = shrunk_shapes(structure, mask)
    replace = {name: _shrunk(structure, name, shape, mask) for name, shape in shapes.items()}
    attributes = following_attributes(model, structure, keep, shapes)
    actual = Recording(device=structure.recording.device, values=structure.recording.values)
    broke = ""
    try:
        record_forward(model, example_inputs, replace=replace, attributes=attributes, into=actual)
    except Exception as error:  # noqa: BLE001 -- foreign code
        broke = str(error).strip().split("\n")[0] or type(error).__name__
    expected = structure.eval_ops()
    steps, actual_steps = _steps(expected), _steps(actual.ops)
    out = _Replay()
    counts: dict[int, int] = {}
    constants, actual_constants = constant_arguments(structure.recording), constant_arguments(actual)
    expected_index = actual_index = 0
    while expected_index < len(steps) and actual_index < len(actual_steps):
        (number, expected_op), (nth, actual_op) = steps[expected_index], actual_steps[actual_index]
        wrong = _disagreement(structure, expected_op, actual_op, mask, counts)
        if wrong and (
            after := _same_product(structure, steps[expected_index:], actual_steps[actual_index:], mask, counts)
        ):
            expected_index, actual_index = expected_index + after[0], actual_index + after[1]
            continue
        expected_index, actual_index = expected_index + 1, actual_index + 1
        numbers: Numbers = {}
        if not wrong:
            read = constants.get(number, {}), actual_constants.get(nth, {})
            numbers, wrong = following_numbers(structure.context, expected_op, actual_op, mask, read)
            if structure.recording.numbers.get(number) != actual.numbers.get(nth):
                # A number that code reads from a tensor made of sizes: each network goes on with its own.
                numbers[RESULT] = structure.recording.numbers[number]
        if wrong:
            out.failure = (number, wrong)
            return out
        if numbers:
            out.scalars[number] = numbers
    if broke or expected_index < len(steps) or actual_index < len(actual_steps):
        last = steps[expected_index][0] if expected_index < len(steps) else len(expected) - 1
        out.failure = last, broke or "the smaller model makes fewer or more calls"
    return out


def _steps(ops: list[Op]) -> list[tuple[int, Op]]:
    """The calls to compare, with their numbers.

    Without copies: whether a reshape copies depends on strides, not on its meaning.
    """
    return [(n, op) for n, op in enumerate(ops) if op.func is not torch.ops.aten.clone.default]


def _same_product(
    structure: Structure,
    steps: list[tuple[int, Op]],
    actual_steps: list[tuple[int, Op]],
    mask: NDArray[np.bool_],
    counts: dict[int, int],
) -> tuple[int, int] | None:
    """How many calls on both sides are one and the same product, taken apart in different ways.

    PyTorch chooses by the memory layout, which is another one where a tensor has one channel instead of several, and
    ``einsum`` puts dimensions of size one elsewhere.
    """
    expected_count, actual_count = _product_span(steps), _product_span(actual_steps)
    if not expected_count or not actual_count or steps[0][1].owner != actual_steps[0][1].owner:
        return None
    wrong = _shape_disagreement(
        structure, steps[expected_count - 1][1], actual_steps[actual_count - 1][1], mask, counts
    )
    return None if wrong else (expected_count, actual_count)


def _product_span(steps: list[tuple[int, Op]]) -> int:
    """Calls from the first on that are one product of one layer, with the views around it; 0 if there is no such."""
    products, owner = 0, steps[0][1].owner if steps else ""
    for count, (_, op) in enumerate(steps):
        name = op.func.overloadpacket.__name__
        in_product = op.owner == owner and (name in _AROUND_PRODUCTS or (name in _PRODUCTS and not products))
        if not in_product:
            return count if products else 0
        products += name in _PRODUCTS
    return len(steps) if products else 0


def _disagreement(
    structure: Structure, expected_op: Op, actual_op: Op, mask: NDArray[np.bool_], counts: dict[int, int]
) -> str:
    if not _same_call(expected_op, actual_op):
        return f"the smaller model calls {actual_op.name} instead"
    return _shape_disagreement(structure, expected_op, actual_op, mask, counts)


def _same_call(expected_op: Op, actual_op: Op) -> bool:
    return expected_op.func == actual_op.func or {expected_op.func, actual_op.func} <= _VIEWS


def _shape_disagreement(
    structure: Structure, expected_op: Op, actual_op: Op, mask: NDArray[np.bool_], counts: dict[int, int]
) -> str:
    for out, result in zip(expected_op.outs, actual_op.outs, strict=True):
        if out is not None and result is not None:
            dims = structure.context.dims(out)
            shape = tuple(kept_size(dim, mask, counts) for dim in dims)
            if shape != tuple(result.shape) and result.numel():
                return f"the smaller model makes {tuple(result.shape)} instead of {shape}"
    return ""


def following_attributes(
    model: nn.Module, structure: Structure, keep: Keep, shapes: Mapping[str, tuple[int, ...]]
) -> list[Change]:
    """The attributes of modules that must change with the shapes of their tensors (``shrunk_shapes``)."""
    mask = structure.kept_atoms(keep)
    aliases = structure.recording.aliases  # a tied tensor has its shape under every name
    named = {n: shape for name, shape in shapes.items() for n in aliases.get(name, (name,))}
    sizes = [(path, name, kept_size(dim, mask)) for path, name, dim in structure.context.attributes]
    widths = np.array([len(channels) for channels in keep], dtype=np.int64)
    owned = {key: int(ratio.at(widths)) for key, ratio in structure.owned.items()}
    return attribute_changes(model, named, sizes, owned)


def _shrunk(structure: Structure, name: str, shape: tuple[int, ...], mask: NDArray[np.bool_]) -> Tensor:
    """A tensor of the shrunk shape: on meta if the model ran there, else the kept slices."""
    twin = structure.recording.parameters[name]
    if structure.recording.device == "meta":
        return torch.empty(shape, dtype=twin.dtype, device="meta")
    small = twin.detach()
    for axis, dim in enumerate(structure.context.tensors[id(twin)]):
        small = small.index_select(axis, torch.from_numpy(kept_positions(dim, mask)).to(small.device))
    return small


def shrunk_shapes(structure: Structure, mask: NDArray[np.bool_]) -> dict[str, tuple[int, ...]]:
    """New shape of every parameter and buffer that changes, by its first name."""
    counts: dict[int, int] = {}
    out = {}
    for name, tensor in structure.recording.parameters.items():
        shape = tuple(kept_size(dim, mask, counts) for dim in structure.context.tensors[id(tensor)])
        if shape != tuple(tensor.shape):
            out[name] = shape
    return out


def pin_site(model: nn.Module, structure: Structure, number: int, why: str) -> Structure:
    """Pin what the disagreeing call touches; if that is pinned already, what the calls before it touch.

    Of a view, first only the dimensions whose sizes the code gives as plain numbers. The same call in other layers of
    the same class is pinned with it: the same code makes the same mistake.
    """
    context = structure.context
    ops = structure.eval_ops()
    call_keys = _call_keys(model, ops)
    for back in range(number, -1, -1):
        twins = [op for op, call_key in zip(ops, call_keys, strict=True) if call_key == call_keys[back]]
        dims_of = next((of for of in (_literal_dims, _dims_of) if _any_open(structure, of(structure, ops[back]))), None)
        if dims_of is None:
            continue
        for op in twins:
            reason = Reason(op.operator, op.owner, f"does not follow smaller sizes ({why})")
            for dim in dims_of(structure, op):
                context.labels.pin(dim, reason)
        note = Note(f"{ops[back].site} does not follow smaller sizes ({why})", "pinned")
        return assemble(structure.recording, context, [*structure.repairs, note])
    everything = np.flatnonzero(structure.atom_group >= 0)
    context.labels.pins.append((everything, f"the forward pass does not follow smaller sizes ({why})"))
    return assemble(structure.recording, context, [*structure.repairs, Note(f"everything is pinned: {why}", "pinned")])


def _call_keys(model: nn.Module, ops: list[Op]) -> list[tuple[type, str, int]]:
    """For every call: the class of its layer, the operator, and how many of it the layer made before."""
    calls: Counter[tuple[str, str]] = Counter()
    call_keys = []
    for op in ops:
        call_keys.append((type(model.get_submodule(op.owner)), op.name, calls[op.owner, op.name]))
        calls[op.owner, op.name] += 1
    return call_keys


def _literal_dims(structure: Structure, op: Op) -> list[Dim]:
    """Dimensions of a view whose sizes are plain numbers in the code."""
    out = op.outs[0] if op.outs else None
    axes = structure.recording.sizes.literal.get(id(out), []) if out is not None else []
    dims = structure.context.dims(out) if out is not None else []
    return [dims[axis] for axis in axes if axis < len(dims)]


def _any_open(structure: Structure, dims: list[Dim]) -> bool:
    return any(_open(structure, dim) for dim in dims)


def _dims_of(structure: Structure, op: Op) -> list[Dim]:
    return [dim for tensor in _touched(op) for dim in structure.context.dims(tensor)]


def _open(structure: Structure, dim: Dim) -> bool:
    return any(labels is not None and bool(structure.root[labels].any()) for _, labels in dim)


def _touched(op: Op) -> list[Tensor]:
    return [*op.tensors, *(out for out in op.outs if out is not None)]
