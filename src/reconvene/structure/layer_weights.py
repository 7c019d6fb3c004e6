"""Weights of layers in a recording: which tensors are matrices of weights, and which layers read a weight whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from reconvene.structure.recording import Op
from reconvene.structure.rules.context import arg

if TYPE_CHECKING:
    from reconvene.structure.analysis import Structure

_VIEWS = frozenset({"t", "transpose", "permute", "detach", "alias"})
_PRODUCTS = frozenset({"linear", "addmm", "mm", "bmm", "baddbmm", "matmul"})
_LOOKUPS = frozenset({"embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"})
# Where a parameter meets activations position by position: it scales or shifts them, and is no weight of a layer.
_POINTWISE = frozenset(
    {"add", "sub", "rsub", "mul", "div", "addcmul", "addcdiv", "where", "pow", "maximum", "minimum", "lerp"}
)


def matrices(structure: Structure) -> dict[int, tuple[str, int]]:
    """Matrices of weights by identity, also turned ones: name and the dimension of the parameter that gives outputs."""
    found = {id(t): (n, tuple(range(t.ndim))) for n, t in structure.recording.parameters.items() if t.ndim == 2}
    turned = dict(found)
    for op in structure.eval_ops():
        source = op.args[0] if op.args else None
        out = op.outs[0] if op.outs else None
        if op.operator in _VIEWS and isinstance(source, Tensor) and id(source) in turned and out is not None:
            name, order = turned[id(source)]
            swaps = op.operator == "t" or (op.operator == "transpose" and source.ndim == 2)
            turned[id(out)] = (name, order[::-1] if swaps else order)
    linear = {id(op.args[1]) for op in structure.eval_ops() if op.operator == "linear"}
    return {key: (name, order[0] if key in linear else order[1]) for key, (name, order) in turned.items()}


def is_depthwise(op: Op) -> bool:
    """Whether a convolution reads one channel for each output channel, of several."""
    weight, groups = op.args[1], int(arg(op, 8, "groups", 1))
    transposed = bool(arg(op, 6, "transposed", False))
    return bool(groups > 1 and weight.shape[0 if transposed else 1] == (groups if transposed else 1))


def summing_weights(structure: Structure) -> frozenset[str]:
    """Weights that a layer reads as they are and sums over: of matrix products, and of convolutions not depthwise."""
    names = {id(tensor): name for name, tensor in structure.recording.parameters.items()}
    turned = matrices(structure)
    found: set[str] = set()
    for op in structure.eval_ops():
        if op.operator.startswith("convolution") and not is_depthwise(op):
            found |= {names[id(op.args[1])]} if id(op.args[1]) in names else set()
        elif op.operator in _PRODUCTS:
            found |= {turned[id(value)][0] for value in op.args if id(value) in turned}
    return frozenset(found)


def output_dims(structure: Structure) -> dict[str, frozenset[int]]:
    """Dimensions along which weights hold output channels, by name; none of parameters that scale or shift activations.

    Of the eval pass: convolutions, matrix products in either order, and embeddings read their weight in the recording.
    A depthwise kernel holds output channels alone. Parameters that reach a layer in another way, such as pieces of one
    tensor or what a parametrisation computes from, are absent.
    """
    names = {id(tensor): name for name, tensor in structure.recording.parameters.items()}
    turned = matrices(structure)
    found: dict[str, set[int]] = {}
    for op in structure.eval_ops():
        for name, dim in _outputs_of(op, names, turned):
            found.setdefault(name, set()).add(dim)
    result = {name: frozenset(dims) for name, dims in found.items()}
    return {**{name: frozenset() for name in _pointwise(structure, names) if name not in result}, **result}


def _outputs_of(op: Op, names: dict[int, str], turned: dict[int, tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The weights of one call, each with the dimension of its output channels."""
    if op.operator.startswith("convolution") and id(op.args[1]) in names:
        transposed = bool(arg(op, 6, "transposed", False))
        yield names[id(op.args[1])], int(transposed and not is_depthwise(op))
    elif op.operator in _LOOKUPS and id(op.args[0]) in names:
        yield names[id(op.args[0])], 1
    elif op.operator in _PRODUCTS:
        left, right = op.args[1:3] if op.operator in ("addmm", "baddbmm") else op.args[:2]
        if id(right) in turned:
            yield turned[id(right)]
        if id(left) in turned:  # W x instead of x W: the rows of the matrix are the outputs
            name, dim = turned[id(left)]
            yield name, 1 - dim


def _pointwise(structure: Structure, names: dict[int, str]) -> set[str]:
    """Parameters that meet activations in pointwise calls alone, as they are or as computed from parameters only."""
    sources = {key: frozenset({name}) for key, name in names.items()}
    met: dict[str, bool] = {}
    for op in structure.eval_ops():
        of_parameters = [sources[id(t)] for t in op.tensors if id(t) in sources]
        if not of_parameters:
            continue
        involved = frozenset().union(*of_parameters)
        if len(of_parameters) == len(op.tensors):
            sources |= {id(out): involved for out in op.outs if out is not None}
        else:
            pointwise = op.operator.removesuffix("_") in _POINTWISE
            met |= {name: met.get(name, True) and pointwise for name in involved}
    return {name for name, pointwise in met.items() if pointwise}
