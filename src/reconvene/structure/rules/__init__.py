"""One small rule per operator, in one table; an operator that is not in it pins everything it touches."""

from __future__ import annotations

import torch

from reconvene.structure.capture import Op
from reconvene.structure.inputs import tensors_in
from reconvene.structure.labels import rigid
from reconvene.structure.rules import elementwise, products, reductions, shapes
from reconvene.structure.rules.context import Context, Rule

RULES: dict[str, Rule] = {**elementwise.RULES, **products.RULES, **reductions.RULES, **shapes.RULES}


def apply_rule(ctx: Context, op: Op) -> None:
    """Read one recorded call."""
    if not any(t.ndim for t in op.outs if t is not None) and not tensors_in((op.args, op.kwargs)):
        return
    name = op.func.overloadpacket.__name__
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None and torch.Tag.pointwise in op.func.tags:
        rule = elementwise.pointwise
    (rule or unknown)(ctx, op)


def unknown(ctx: Context, op: Op) -> None:
    """Nothing is known about this call, so everything it touches stays as it is."""
    if op.site not in ctx.unknown:
        ctx.unknown.append(op.site)
    for tensor in tensors_in((op.args, op.kwargs)):
        ctx.pin(op, *ctx.dims(tensor), why=f"{op.site} is an operator without a rule")
    for out in op.outs:
        if out is not None:
            ctx.set(out, [rigid(size) for size in out.shape])


__all__ = ["RULES", "Context", "Rule", "apply_rule"]
