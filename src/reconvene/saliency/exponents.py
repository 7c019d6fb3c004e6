"""Numbers of any size in float32: tensors that carry a power of two beside their values.

Signals in a network with absolute weights grow by a factor per layer, to ``2 ** 400`` in DenseNet-121. Where a product
of two tensors leaves a comfortable range it is divided by a power of two, which is exact, and the power is remembered
on the tensor. Sums bring their operands to one power first. Autograd sees only multiplications by constants, so
gradients stay in range too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

ATTRIBUTE = "_reconvene_exponent"
SIGNAL = "_reconvene_signal"
COMFORT = 16  # products within 2 ** +-COMFORT stay as they are

WEIGHTED = frozenset(  # the second factor is a weight
    f"{kind}{dims}d" for kind in ("conv", "conv_transpose") for dims in (1, 2, 3)
) | {"linear"}
PRODUCTS = WEIGHTED | {"mul", "multiply", "matmul", "bmm", "mm", "mv", "dot", "einsum", "tensordot"}
QUOTIENTS = frozenset({"div", "true_divide", "divide"})
POWERS = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}
SUMS = frozenset({"add", "sub", "subtract", "rsub"})
CREATIONS = frozenset({f"{kind}_like" for kind in ("zeros", "ones", "empty", "full", "rand", "randn")}) | {
    f"new_{kind}" for kind in ("zeros", "ones", "empty", "full")
}
ABSOLUTES = (
    frozenset({"exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "pow", "square", "reciprocal", "var", "std"})
    | {"sin", "cos", "erf", "clamp", "clip", "clamp_min", "clamp_max", "floor", "ceil", "round"}
    | {"addmm", "addbmm", "baddbmm", "addcmul", "addcdiv"}
)


def exponent(tensor: Tensor) -> int:
    """The power of two that ``tensor`` stands multiplied by."""
    return int(getattr(tensor, ATTRIBUTE, 0))


def evaluate(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """``func(*args, **kwargs)`` on tensors with exponents, where ``name`` is what ``func`` does.

    Products add exponents (and of several signals share the flow between them), quotients subtract them, functions that
    are not homogeneous see true values; everything else is taken to be homogeneous of degree one in its floating
    arguments together. What is made of a signal is a signal, of degree one: a power of it is the signal itself, and
    what it is divided by (a norm written out by hand) is a constant.
    """
    power = _power(name.strip("_"), args)
    if power is not None and power > 0:
        return args[0]
    if power is not None:
        return _inverse(args[0])
    if name.strip("_") in QUOTIENTS and len(args) > 1 and isinstance(args[1], Tensor) and is_signal(args[1]):
        return evaluate(torch.mul, "mul", (args[0], _inverse(args[1])), kwargs)
    result = _evaluated(func, name, args, kwargs)
    return signal(result) if any(is_signal(tensor) for tensor in _floating((args, kwargs))) else result


def _evaluated(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    in_place = (name.endswith("_") and not name.startswith("__")) or name.startswith("__i") or name == "__setitem__"
    name = name.strip("_").removeprefix("i" if in_place and name.startswith("__i") else "")
    operands = [exponent(tensor) for tensor in _floating((args, kwargs))]
    if name in PRODUCTS:
        if in_place:
            return attach(func(*args, **kwargs), sum(operands))
        factors = [place for place, factor in enumerate(args) if _is_made(factor)]
        degree = sum(isinstance(factor, Tensor) and is_signal(factor) for factor in args)
        if name not in WEIGHTED and degree > 1:
            return settle(_mean(func(*args, **kwargs), sum(operands), degree))
        shared = name not in WEIGHTED and len(factors) == 2
        result = _shared(func, args, kwargs, factors) if shared else func(*args, **kwargs)
        return settle(attach(result, sum(operands)))
    if not any(operands):
        return func(*args, **kwargs)
    if name in QUOTIENTS:
        return attach(func(*args, **kwargs), operands[0] - sum(operands[1:]))
    if name in CREATIONS:
        return func(*args, **kwargs)
    common = 0 if name in ABSOLUTES else operands[0] if in_place else max(operands)
    args, kwargs = _aligned((args, dict(kwargs)), common, numbers=name in SUMS)
    return attach(func(*args, **kwargs), common)


def attach(result: Any, power: int) -> Any:
    """Note the power of two on a result, or on every tensor of a sequence of results."""
    for tensor in _floating(result):
        if power or hasattr(tensor, ATTRIBUTE):
            setattr(tensor, ATTRIBUTE, power)
    return result


def settle(tensor: Tensor) -> Tensor:
    """The same number with its largest value near one, if it has left the comfortable range."""
    largest = float(tensor.detach().abs().amax()) if tensor.numel() else 0.0
    if not 0.0 < largest < math.inf:
        return tensor
    power = math.frexp(largest)[1]
    if abs(power) <= COMFORT:
        return tensor
    scaled: Tensor = attach(tensor * math.ldexp(1.0, -power), exponent(tensor) + power)
    return scaled


def aligned(tensor: Tensor, power: int) -> Tensor:
    """The values of ``tensor`` when the power of two beside them is ``power``."""
    shift = exponent(tensor) - power
    return tensor if shift == 0 else tensor * math.ldexp(1.0, shift) if shift < 1000 else tensor * math.inf


def _is_made(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and not value.is_leaf


def _power(name: str, args: tuple[Any, ...]) -> float | None:
    """The power to which a function raises a signal; ``None`` if it does something else."""
    if not (args and isinstance(args[0], Tensor) and is_signal(args[0])):
        return None
    if name == "pow":
        return float(args[1]) if len(args) > 1 and isinstance(args[1], (int, float)) and args[1] else None
    return POWERS.get(name)


def _inverse(tensor: Tensor) -> Tensor:
    """``1 / tensor`` as a constant; zero stays zero."""
    value = tensor.detach()
    live = value != 0
    out: Tensor = attach(torch.where(live, 1.0 / torch.where(live, value, 1.0), 0.0), -exponent(tensor))
    return out


def signal(result: Any) -> Any:
    """Note that a result is made of the input, as weights and gates are not: it grows with the input."""
    for tensor in _floating(result):
        setattr(tensor, SIGNAL, True)
    return result


def is_signal(tensor: Tensor) -> bool:
    """Whether a tensor was noted as a signal."""
    return hasattr(tensor, SIGNAL)


def _shared(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], factors: list[int]) -> Any:
    """A product with a gate, which gives half of its gradient to each: what flows in flows out, once."""
    halves = []
    for still in factors:
        fixed = [factor.detach() if place == still else factor for place, factor in enumerate(args)]
        halves.append(func(*fixed, **kwargs) * 0.5)
    return halves[0] + halves[1]


def _mean(product: Tensor, power: int, degree: int) -> Tensor:
    """The geometric mean of several signals instead of their product: of degree one, as a signal is.

    A product would square the signal in every block that multiplies two (linear attention), so that whatever reaches
    the output past such blocks were lost beside it. The flow is shared evenly, as in the product.
    """
    whole = product * math.ldexp(1.0, power % degree)
    live = whole > 0
    root: Tensor = torch.where(live, torch.where(live, whole, 1.0) ** (1 / degree), 0.0)
    return attach(root, power // degree)  # type: ignore[no-any-return]


def _aligned(tree: Any, power: int, *, numbers: bool) -> Any:
    if isinstance(tree, Tensor):
        return aligned(tree, power) if tree.is_floating_point() else tree
    if isinstance(tree, (tuple, list)):
        return (
            type(tree)(_aligned(item, power, numbers=numbers) for item in tree) if type(tree) in (tuple, list) else tree
        )
    if isinstance(tree, dict):
        return {key: _aligned(item, power, numbers=False) for key, item in tree.items()}
    return math.ldexp(tree, -power) if numbers and isinstance(tree, float) else tree


def _floating(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        if tree.is_floating_point():
            yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _floating(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _floating(item)
