"""One small rule per operator, in one table; an operator that is not in it pins everything it touches."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from reconvene.errors import ReconveneError
from reconvene.structure.custom_layers import LAYERS, LayerCall
from reconvene.structure.labels import is_labelled
from reconvene.structure.recording import Op
from reconvene.structure.rules import elementwise, folds, indexing, products, reductions, shapes
from reconvene.structure.rules.context import Context, Rule, because

RULES: dict[str, Rule] = {
    **elementwise.ELEMENTWISE_RULES,
    **products.PRODUCT_RULES,
    **reductions.REDUCTION_RULES,
    **shapes.SHAPE_RULES,
    **folds.FOLD_RULES,
    **indexing.INDEXING_RULES,
}


NEURON = re.compile(r"sj_(if|lif|plif|eif|qif|clif|ilif|izhikevich)::(strided_)?forward\w*")
"""SpikingJelly's neurons, of one step and of many: every channel by itself, time in front."""


def rule(*targets: str | type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register a rule of your own: ``@rule("mylib::scale")`` for an operator, ``@rule(MyLayer)`` for a layer.

    The function takes ``(context, op)`` and says what is coupled: ``context.dims(tensor)`` gives the dimensions of an
    argument in ``op.args``, ``context.labels.unify`` joins two, ``context.pin`` keeps one, ``context.set`` describes an
    output in ``op.outs``. A layer is called with its inputs and then its parameters as ``op.args``. What a rule gets
    wrong in shape is found by the trial run; what it gets wrong in meaning is found by comparing ``plan.apply`` with
    ``plan.mask``.
    """

    def register(function: Rule) -> Rule:
        for target in targets:
            if isinstance(target, str):
                RULES[target.removeprefix("aten::")] = function
            else:
                LAYERS.add(target)
                RULES[LayerCall(target).__name__] = function
        return function

    return register


def _key(op: Op) -> str:
    return _rule_name(op.func)


@cache
def _rule_name(func: Any) -> str:
    name, space = str(func.overloadpacket.__name__), getattr(func, "namespace", "aten")
    return name if space in ("aten", "layer") else f"{space}::{name}"


def apply_rule(ctx: Context, op: Op) -> None:
    """Read one recorded call."""
    if not any(t.ndim for t in op.outs if t is not None) and not op.tensors:
        return
    name = _key(op)
    operator_rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if operator_rule is None and (torch.Tag.pointwise in op.func.tags or NEURON.fullmatch(name)):
        operator_rule = elementwise.pointwise
    try:
        (operator_rule or unknown)(ctx, op)
    except ReconveneError:
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defence: a rule that fails knows nothing
        failed(ctx, op, error)
    if ctx.of_weights(op.tensors):
        ctx.derived.update(id(out) for out in op.outs if out is not None)


def unknown(ctx: Context, op: Op) -> None:
    """Nothing is known about this call, so everything it touches stays as it is."""
    labelled = any(is_labelled(dim) for tensor in op.tensors for dim in ctx.dims(tensor))
    if labelled and op.site not in ctx.unknown:
        ctx.unknown.append(op.site)
    ctx.pin_all(op, because(op, f"is {_kind(op)}"))


def _kind(op: Op) -> str:
    """What an operator without a rule is, as far as that says why it has none."""
    if _key(op).startswith("_fft_"):
        return "a Fourier transform, which mixes all positions"
    if any(t.is_complex() for t in (*op.tensors, *(o for o in op.outs if o is not None))):
        return "an operator on complex numbers without a rule"
    return "an operator without a rule"


def failed(ctx: Context, op: Op, error: Exception) -> None:
    """The rule of this call raised: everything the call touches stays as it is, and the failure is named."""
    why = f"{op.site}, whose rule fails ({type(error).__name__}: {error})"
    if why not in ctx.unknown:
        ctx.unknown.append(why)
    for out in op.outs:
        if out is not None:
            ctx.tensors.pop(id(out), None)
    ctx.pin_all(op, why)


__all__ = ["RULES", "Context", "Rule", "apply_rule", "rule"]
