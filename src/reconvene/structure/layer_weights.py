"""Weights of layers in a recording: which tensors are matrices of weights, and which layers read a weight whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from reconvene.structure.recording import Op
from reconvene.structure.rules.context import arg

if TYPE_CHECKING:
    from reconvene.structure.analysis import Structure

_VIEWS = frozenset({"t", "transpose", "permute", "detach", "alias"})
_PRODUCTS = frozenset({"linear", "addmm", "mm", "bmm", "baddbmm", "matmul"})


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
