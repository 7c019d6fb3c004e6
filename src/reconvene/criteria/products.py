"""Rules of ``arithmetic`` for what multiplies, divides and raises to powers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reconvene.criteria.scaled_tensor import (
    attach,
    degree_zero,
    exponent,
    floating,
    inverse,
    is_live,
    is_made_of_input,
    is_positive,
    is_signal,
    marked_like,
    rescale,
    scale,
)

Call = tuple[Callable[..., Any], str, tuple[Any, ...], dict[str, Any], bool]
"""A function, its plain name, its arguments, and whether it works in place."""


def product(call: Call) -> Any:
    """Products add exponents; of several signals they share the flow, and a gate takes half of it."""
    func, _, args, kwargs, in_place = call
    power = sum(exponent(operand) for operand in floating((args, kwargs)))
    if not in_place:
        return _shared_product(func, absolute(args), kwargs, power)
    target = args[0]
    factors = (marked_like(target.clone(), target), *args[1:])
    result = _shared_product(torch.mul, absolute(factors), kwargs, power)
    return attach(target.copy_(result), exponent(result))


def _shared_product(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], power: int) -> Tensor:
    """A product whose flow is shared evenly among its factors."""
    degree = sum(is_signal(factor) for factor in floating(args))
    if degree > 1:
        return rescale(_mean(func(*args, **kwargs), power, degree))
    tensors = [(position, factor) for position, factor in enumerate(args) if isinstance(factor, Tensor)]
    sharing = [position for position, factor in tensors if is_made_of_input(factor) and factor.requires_grad]
    if len(sharing) != 2:
        return rescale(attach(func(*args, **kwargs), power))
    halves = []  # a gate and what it gates get half of the gradient each: what flows in flows out, once
    for still in sharing:
        fixed = [factor.detach() if position == still else factor for position, factor in enumerate(args)]
        halves.append(func(*fixed, **kwargs) * 0.5)
    return rescale(attach(halves[0] + halves[1], power))


def _mean(product: Tensor, power: int, degree: int) -> Tensor:
    """The geometric mean of several signals instead of their product: of degree one, as a signal is.

    A product would square the signal in every block that multiplies two (linear attention), so that whatever reaches
    the output past such blocks were lost beside it. The flow is shared evenly, as in the product.
    """
    scaled = product * scale(power % degree)
    positive = scaled > 0
    root: Tensor = torch.where(positive, torch.where(positive, scaled, 1.0) ** (1 / degree), 0.0)
    mean: Tensor = attach(root, power // degree)
    return mean


def layer_product(call: Call) -> Any:
    """A layer's product with its weight, which counts by absolute value where it is computed; its bias is zero."""
    func, _, args, kwargs, _ = call
    values = [*args[:2], *([None] if len(args) > 2 else []), *args[3:]]
    named = {name: None if name == "bias" else value for name, value in kwargs.items()}
    values[:2] = [
        value if is_signal(value) or is_positive(value) else marked_like(value.abs(), value) for value in values[:2]
    ]
    power = sum(exponent(operand) for operand in floating((values, named)))
    return rescale(attach(func(*values, **named), power))


def quotient(call: Call) -> Any:
    """A divisor is a constant: the norm by which a signal or a weight is divided has no flow of its own."""
    func, name, args, _, in_place = call
    above, below = args[0], args[1]
    if name in REVERSED:
        above, below, func = below, above, torch.div
    if not isinstance(below, Tensor):
        return attach(func(above, abs(below)), exponent(above))
    factor = inverse(below)
    if not isinstance(above, Tensor):
        return degree_zero(attach(factor * abs(above), exponent(factor)))
    multiply: Callable[..., Any] = torch.Tensor.mul_ if in_place else torch.mul
    result = product((multiply, "mul", (above, factor), {}, in_place))
    return result if is_signal(above) else degree_zero(result)


def power_of(call: Call) -> Any:
    """A positive power of a live tensor is that tensor, a negative one its inverse."""
    _, name, args, kwargs, _ = call
    base: Any = args[0]
    power: Any = POWERS[name] if name in POWERS else args[1] if len(args) > 1 else kwargs["exponent"]
    if not is_live(base):  # a number to the power of a live tensor
        return separate_copy(power)
    if isinstance(power, (int, float)) and power < 0:
        return inverse(base)
    return separate_copy(base) if not isinstance(power, (int, float)) or power else torch.ones_like(base)


def separate_copy(value: Tensor) -> Tensor:
    """The same number in memory of its own: what is done to one in place is not done to the other."""
    copy: Tensor = attach(value.clone(), exponent(value))
    return copy


def absolute(values: Any) -> Any:
    """Constants and numbers by absolute value; live tensors are positive already."""
    if isinstance(values, (tuple, list)):
        return type(values)(absolute(value) for value in values)
    if isinstance(values, Tensor):
        return values.abs() if values.is_floating_point() and not is_live(values) else values
    return abs(values) if isinstance(values, (int, float)) and not isinstance(values, bool) else values


WEIGHTED = frozenset(f"{layer}{dims}d" for layer in ("conv", "conv_transpose") for dims in (1, 2, 3)) | {"linear"}
PRODUCTS = frozenset({"mul", "multiply", "matmul", "bmm", "mm", "mv", "dot", "vdot", "inner", "outer", "ger"}) | {
    "einsum",
    "tensordot",
    "bilinear",
    "kron",
    "chain_matmul",
}
QUOTIENTS = frozenset({"div", "true_divide", "divide", "floor_divide", "truediv", "floordiv"})
REVERSED = frozenset({"rdiv", "rtruediv", "rfloordiv"})
POWERS = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}
