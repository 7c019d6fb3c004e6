"""Attributes of layers that repeat the shapes of their tensors, and must follow them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from reconvene.utils.module_tree import named_modules

_Shape = tuple[int, ...]
Change = tuple[str, str, Any]

_INDEXED = re.compile(r"(\w+)\[(\d+)\]")
_CONVOLUTION = nn.modules.conv._ConvNd


def _linear(shapes: Mapping[str, _Shape]) -> dict[str, int]:
    out, into = shapes["weight"]
    return {"out_features": out, "in_features": into}


def _embedding(shapes: Mapping[str, _Shape]) -> dict[str, int]:
    return {"embedding_dim": shapes["weight"][1]}


def _prelu(shapes: Mapping[str, _Shape]) -> dict[str, int]:
    return {"num_parameters": shapes["weight"][0]}


def _normalised(shapes: Mapping[str, _Shape]) -> dict[str, _Shape]:
    return {"normalized_shape": shapes["weight"]}


def _recurrent(shapes: Mapping[str, _Shape]) -> dict[str, int]:
    into, hidden = shapes["weight_ih_l0"][1], shapes["weight_hh_l0"][1]
    gates = shapes["weight_ih_l0"][0]
    return {"input_size": into, "hidden_size": hidden} if gates % hidden == 0 else {}


_Rule = Callable[[Mapping[str, _Shape]], Mapping[str, Any]]
_BY_SHAPE: tuple[tuple[type[nn.Module], _Rule], ...] = (
    (nn.Linear, _linear),
    (nn.Embedding, _embedding),
    (nn.PReLU, _prelu),
    (nn.RMSNorm, _normalised),
    (nn.RNNBase, _recurrent),
)
_NEEDED: dict[type[nn.Module], str] = {
    **dict.fromkeys((nn.Linear, nn.Embedding, nn.PReLU, nn.RMSNorm), "weight"),
    nn.RNNBase: "weight_ih_l0",
}
_BY_CALL: dict[str, tuple[type[nn.Module], ...]] = {
    "in_channels": (_CONVOLUTION,),
    "out_channels": (_CONVOLUTION,),
    "groups": (_CONVOLUTION,),
    "num_features": (nn.modules.batchnorm._NormBase,),
    "num_channels": (nn.GroupNorm,),
    "num_groups": (nn.GroupNorm,),
    "normalized_shape": (nn.LayerNorm,),
}


def attribute_changes(
    model: nn.Module,
    shapes: Mapping[str, _Shape],
    sizes: Iterable[tuple[str, str, int]],
    owned: Mapping[tuple[str, str, int | None], int] | None = None,
) -> list[Change]:
    """``(module, attribute, value)`` for every attribute that must change.

    Args:
        model: the dense model.
        shapes: new shape of every parameter and buffer that changes, by every name that it has.
        sizes: ``(module, attribute, kept size)`` as recorded calls saw them; ``normalized_shape[0]`` names a tuple
            entry.
        owned: new values of ``(module, attribute, index)`` that the code uses as sizes; no index where it is no tuple.
    """
    changes: dict[tuple[str, str], Any] = {}
    modules = dict(named_modules(model))
    for (path, name, index), size in (owned or {}).items():
        old = changes.get((path, name), getattr(modules[path], name))
        changes[path, name] = size if index is None else type(old)([*old[:index], size, *old[index + 1 :]])
    kinds = {type(module) for module in modules.values()}
    rules = {kind: [(layer, rule) for layer, rule in _BY_SHAPE if issubclass(kind, layer)] for kind in kinds}
    for path, module in modules.items():
        for layer_type, rule in rules[type(module)]:
            # A parametrised layer owns other tensors than its kind: its attributes are not read in a forward pass.
            if _tensors(module).get(_NEEDED[layer_type]) is not None:
                layer_shapes = {
                    n: shapes.get(f"{path}.{n}" if path else n, tuple(p.shape)) for n, p in _tensors(module).items()
                }
                changes.update({(path, attribute): value for attribute, value in rule(layer_shapes).items()})
    for path, attribute, size in sizes:
        match = _INDEXED.fullmatch(attribute)
        base = match[1] if match else attribute
        module = modules[path]
        if not isinstance(module, _BY_CALL.get(base, ())) or not hasattr(module, base):
            continue
        if match:
            value = list(changes.get((path, base), getattr(module, base)))
            value[int(match[2])] = size
            changes[path, base] = tuple(value)
        else:
            changes[path, base] = size
    return [(path, name, value) for (path, name), value in changes.items() if getattr(modules[path], name) != value]


def _tensors(module: nn.Module) -> dict[str, Any]:
    tensors = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
