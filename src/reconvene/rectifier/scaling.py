"""Scaling the weights of a layer until its output spreads as wide as it should."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from reconvene.rectifier.calibration import drives_on, spread_of
from reconvene.rectifier.layers import is_constant, weight_matrices

# A layer is done when its spread is this near the dense one; one round of scaling is exact for a linear layer.
_CLOSE = 1e-3
_ROUNDS = 4


def scale_output(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, target: float
) -> tuple[Any, str | None]:
    """Scale weights until the output spreads like ``target``; the last output, and what stood in the way."""
    scaled = _scaled(module)
    original = [tensor.clone() for tensor in scaled]
    last = None
    for _ in range(_ROUNDS):
        now = spread_of(output)
        if not now:
            return output, "not scaled: no signal reaches it"
        if math.isclose(now, target, rel_tol=_CLOSE):
            return output, None
        if last is not None and math.isclose(now, last, rel_tol=_CLOSE):
            break
        last = now
        for tensor in scaled:
            tensor.mul_(target / now)
        output = module.forward(*args, **kwargs)
    now = spread_of(output)
    if now and math.isclose(now, target, rel_tol=10 * _CLOSE):
        return output, None
    for tensor, value in zip(scaled, original, strict=True):
        tensor.copy_(value)
    return module.forward(*args, **kwargs), "not scaled: its spread does not follow its weight"


def scale_over_time(small: nn.Module, name: str, batch: Any, target: float, seed: int) -> str | None:
    """Scale weights until the layer's drive spreads like ``target`` over all time steps; what stood in the way."""
    scaled = _scaled(small.get_submodule(name))
    original = [tensor.clone() for tensor in scaled]
    for _ in range(_ROUNDS):
        now = drives_on(small, batch, seed=seed)[name].spread
        if not now:
            return "not scaled: no signal reaches it"
        if math.isclose(now, target, rel_tol=_CLOSE):
            return None
        for tensor in scaled:
            tensor.mul_(target / now)
    if math.isclose(drives_on(small, batch, seed=seed)[name].spread, target, rel_tol=10 * _CLOSE):
        return None
    for tensor, value in zip(scaled, original, strict=True):
        tensor.copy_(value)
    return "not scaled: its spread does not follow its weight"


def _scaled(module: nn.Module) -> list[Tensor]:
    """The weight, and a bias that was drawn; a bias of one single value moves the mean and not the spread."""
    bias = getattr(module, "bias", None)
    drawn = isinstance(bias, Tensor) and bias.numel() > 0 and not is_constant(bias)
    return [*weight_matrices(module), bias] if drawn and isinstance(bias, Tensor) else list(weight_matrices(module))
