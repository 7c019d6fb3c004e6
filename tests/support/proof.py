"""Shared by the tests of structure and surgery: random plans, and the proof that what left was removed cleanly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconvene.structure import Keep, Structure, analyse, call, tensors_in
from reconvene.structure.pruned_sizes import settle
from reconvene.structure.replay import replay
from reconvene.surgery import Plan, make_plan

TOLERANCE = 2e-6


def unsettle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random norm statistics, affine parameters and biases: a wrong index must show in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def both_signs(model: nn.Module, seed: int = 0) -> nn.Module:
    """Turn the sign of half of the values of every vector (biases, scales of norms and layers, tokens).

    Vectors are parameters with at most one dimension longer than one. Single numbers (temperatures) keep their sign.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and 1 < parameter.numel() == max(parameter.shape):
                signs = torch.rand(parameter.shape, generator=generator) < 0.5
                parameter.copy_(torch.where(signs, -parameter, parameter))
    return model


def half(structure: Structure, *, ratio: float = 0.5, seed: int = 0) -> Keep:
    """Random channels at about this width in every group, balanced where they must be."""
    wanted = np.maximum(1, np.round(structure.widths * ratio)).astype(np.int64)
    widths = settle(structure.balances, wanted, structure.widths)
    random = np.random.default_rng(seed)
    return [np.sort(random.permutation(g.width)[:k]) for g, k in zip(structure.prunable, widths, strict=True)]


def error(got: Any, want: Any) -> float:
    """The largest difference over all output tensors, relative to the largest value of each."""
    worst = 0.0
    for one, other in zip(tensors_in(got), tensors_in(want), strict=True):
        if not one.is_floating_point():
            assert torch.equal(one, other)
            continue
        assert one.shape == other.shape
        assert torch.isfinite(one).all() and torch.isfinite(other).all(), "max() of Python passes over a NaN"
        scale = float(other.abs().max()) or 1.0
        worst = max(worst, float((one - other).abs().max()) / scale)
    return worst


def prove(
    model: nn.Module,
    inputs: Any,
    *,
    ratio: float = 0.5,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    prunable: bool | None = True,
) -> tuple[Structure, Plan, nn.Module]:
    """Shrink, replay, and hold the small network against the silenced one; returns structure, plan and small network.

    ``prunable``: whether some group must be prunable, or none may be; None: either. Everything runs in double
    precision, so that a difference is an error and not rounding; kernels that have none run in another ``dtype``.
    """
    model = unsettle(model).to(dtype).eval()
    inputs = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)
    structure = analyse(model, inputs)
    assert prunable is None or bool(structure.prunable) == prunable
    keep = half(structure, ratio=ratio, seed=seed)
    rerun = replay(model, inputs, structure, keep)
    assert rerun.failure is None
    plan = make_plan(model, structure, keep, [], scalars=rerun.scalars)
    small, same = plan.apply(model).eval(), plan.mask(model).eval()
    assert type(small) is type(model)
    with torch.no_grad():
        got, want = call(small, inputs), call(same, inputs)
    assert error(got, want) < TOLERANCE
    return structure, plan, small


def share_kept(small: nn.Module, model: nn.Module) -> float:
    """Parameters of ``small`` over those of ``model``."""
    return sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
