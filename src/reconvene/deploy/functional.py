"""Writes into views, such as an in-place ReLU on a slice, as functions: pnnx loses what they change in the whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from reconvene.deploy.model_io import leaves
from reconvene.deploy.tracing import TensorsOnly

ATEN = torch.ops.aten
_VIEWS = (
    "slice",
    "select",
    "narrow",
    "view",
    "reshape",
    "permute",
    "transpose",
    "chunk",
    "split",
    "unbind",
    "as_strided",
)
WITHOUT_CONTEXT = ("prim::ListUnpack", "prim::TupleUnpack")


def writes_into_views(script: torch.jit.ScriptModule) -> bool:
    """Whether a traced module changes a view in place: ``relu_`` on what a slice gave."""
    for node in script.inlined_graph.nodes():
        name = node.kind().removeprefix("aten::")
        if name.endswith("_") and not name.startswith("_") and any(node.inputs()):
            source = next(iter(node.inputs())).node()
            while source.kind() in WITHOUT_CONTEXT:
                source = next(iter(source.inputs())).node()
            if source.kind().removeprefix("aten::").removesuffix("_copy").startswith(_VIEWS):
                return True
    return False


def functional_form(model: nn.Module, sample: Any) -> nn.Module:
    """``model`` on inputs of this shape as a graph without any write: the whole is put together from its parts.

    A write into a slice becomes a concatenation. Writes at a stride of more than one stay ``slice_scatter`` and the
    like, which the runtime then is said to lack.
    """
    program = torch.export.export(TensorsOnly(model, sample), tuple(leaves(sample))).run_decompositions({})
    graph: fx.GraphModule = program.module(check_guards=False)
    for node in list(graph.graph.nodes):
        if node.target == ATEN.slice_scatter.default:
            _concatenate(graph, node)
        elif node.target in (ATEN.split.Tensor, ATEN.split_with_sizes.default):
            _slices(graph, node)
        elif node.target in (ATEN._to_copy.default, ATEN.clone.default) and _is_same(node):
            node.replace_all_uses_with(node.args[0])
        elif node.target == ATEN._native_batch_norm_legit_no_training.default:
            _batch_norm(graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _concatenate(graph: fx.GraphModule, node: fx.Node) -> None:
    """The part before the slice, the new slice, and the part after it."""
    arguments: list[Any] = [*node.args, *(0, None, None, 1)[len(node.args) - 2 :]]
    base, part, axis, start, end, step = arguments
    assert isinstance(base, fx.Node) and isinstance(axis, int)
    size = base.meta["val"].shape[axis]
    low, high = _index(start, 0, size), _index(end, size, size)
    if step != 1:
        return
    with graph.graph.inserting_before(node):
        pieces: list[Any] = [part]
        if low:
            pieces.insert(0, graph.graph.call_function(ATEN.slice.Tensor, (base, axis, 0, low)))
        if high < size:
            pieces.append(graph.graph.call_function(ATEN.slice.Tensor, (base, axis, high, size)))
        result = part if len(pieces) == 1 else graph.graph.call_function(ATEN.cat.default, (pieces, axis))
    assert isinstance(result, fx.Node)
    result.meta.setdefault("val", node.meta["val"])
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)


def _slices(graph: fx.GraphModule, node: fx.Node) -> None:
    """Every part of a split that is used by itself: ncnn takes those that are not for outputs of the network."""
    base, axis = node.args[0], node.args[2] if len(node.args) > 2 else 0
    assert isinstance(axis, int), "sizes are known"
    sizes: list[int] = [part.shape[axis] for part in node.meta["val"]]
    for user in list(node.users):
        i = user.args[1]
        assert isinstance(i, int), "it takes one part"
        start = sum(sizes[:i])
        with graph.graph.inserting_before(user):
            part = graph.graph.call_function(ATEN.slice.Tensor, (base, axis, start, start + sizes[i]))
        part.meta["val"] = user.meta["val"]
        user.replace_all_uses_with(part)


def _is_same(node: fx.Node) -> bool:
    """Whether a copy has the type and shape of what it copies: in a graph without writes it is that."""
    source = node.args[0]
    return isinstance(source, fx.Node) and source.meta["val"].dtype == node.meta["val"].dtype


def _index(value: Any, default: int, size: int) -> int:
    """A bound of a slice as a number from 0 to ``size``."""
    number = default if value is None else int(value)
    return min(max(number + size if number < 0 else number, 0), size)


def _batch_norm(graph: fx.GraphModule, node: fx.Node) -> None:
    """The one operator that came apart into a tuple on the way, as exporters know it."""
    source, weight, bias, mean, variance, momentum, eps = node.args
    with graph.graph.inserting_before(node):
        arguments = (source, weight, bias, mean, variance, False, momentum, eps, False)
        result = graph.graph.call_function(ATEN.batch_norm.default, arguments)
    for user in list(node.users):
        result.meta.setdefault("val", user.meta.get("val"))
        user.replace_all_uses_with(result)
        graph.graph.erase_node(user)
    graph.graph.erase_node(node)
