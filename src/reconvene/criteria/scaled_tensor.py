"""Numbers of any size in float32: tensors that carry a power of two beside their values, and marks of what they are.

Signals in a network with absolute weights grow by a factor per layer, to ``2 ** 400`` in DenseNet-121. Where a product
of two tensors leaves a comfortable range it is divided by a power of two, which is exact, and the power is remembered
on the tensor. Sums bring their operands to one power first. Autograd sees only multiplications by constants, so
gradients stay in range too. ``arithmetic`` holds the rules by which operators act on such tensors.

Marks say what a tensor is made of. A *signal* is made of the input and grows with it, a *gate* is made of it and does
not. A *live* tensor is a signal, a gate, a weight, or made of one: what the flow passes. Everything else is a constant
of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

ATTRIBUTE = "_reconvene_exponent"
SIGNAL = "_reconvene_signal"
GATE = "_reconvene_gate"
LIVE = "_reconvene_live"
POSITIVE = "_reconvene_positive"
CONSTANT = "_reconvene_constant"
COMFORT = 16  # products within 2 ** +-COMFORT stay as they are
_LARGEST = 1000  # powers of two that a Python float holds
STEP = 100  # and that float32 holds


def exponent(tensor: Tensor) -> int:
    """The power of two that ``tensor`` stands multiplied by."""
    return int(getattr(tensor, ATTRIBUTE, 0))


def attach(result: Any, power: int) -> Any:
    """Note the power of two on a result, or on every tensor of a sequence of results."""
    for tensor in floating(result):
        if power or hasattr(tensor, ATTRIBUTE):
            setattr(tensor, ATTRIBUTE, power)
    return result


def signal(result: Any) -> Any:
    """Note that a result is made of the input, as weights and gates are not: it grows with the input."""
    for tensor in floating(result):
        setattr(tensor, SIGNAL, True)
        setattr(tensor, LIVE, True)
    return result


def gate(result: Any) -> Any:
    """Note that a result is made of the input and does not grow with it."""
    for tensor in floating(result):
        setattr(tensor, GATE, True)
        setattr(tensor, LIVE, True)
    return result


def live(result: Any) -> Any:
    """Note that flow passes through a result: it is a weight, or made of one."""
    for tensor in floating(result):
        setattr(tensor, LIVE, True)
    return result


def positive(leaf: Tensor) -> Tensor:
    """Note that a tensor is a weight taken by absolute value, so that nobody has to look."""
    setattr(leaf, POSITIVE, True)
    leaf = live(leaf)
    return leaf


def is_positive(tensor: Tensor) -> bool:
    """Whether a tensor was noted as a weight taken by absolute value."""
    return hasattr(tensor, POSITIVE)


def degree_zero(result: Tensor) -> Tensor:
    """Note on the result of a rule that it does not grow with the input, although a signal went in."""
    setattr(result, CONSTANT, True)
    return result


def is_degree_zero(result: Any) -> bool:
    """Whether a result was noted as not growing with the input."""
    return hasattr(result, CONSTANT)


def is_signal(tensor: Tensor) -> bool:
    """Whether a tensor was noted as a signal."""
    return hasattr(tensor, SIGNAL)


def is_made_of_input(tensor: Tensor) -> bool:
    """Whether a tensor was noted as a signal or a gate."""
    return hasattr(tensor, SIGNAL) or hasattr(tensor, GATE)


def is_live(value: Any) -> bool:
    """Whether flow passes through a value; constants of the model and numbers are not live."""
    return isinstance(value, Tensor) and (hasattr(value, LIVE) or value.requires_grad)


def marked_like(result: Any, source: Tensor) -> Any:
    """Note on a result what is noted on the tensor it was made of."""
    attach(result, exponent(source))
    if is_made_of_input(source):
        return signal(result) if is_signal(source) else gate(result)
    return live(result) if is_live(source) else result


def rescale(tensor: Tensor) -> Tensor:
    """The same value, positive, rescaled to a largest number near one if it has left the comfortable range."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor) or not tensor.numel():  # values of it cannot be read
        return tensor
    low, high = (float(extreme) for extreme in torch.aminmax(tensor.detach()))
    if low < 0.0:  # an operator without a rule may have turned the sign
        tensor, high = attach(tensor.abs(), exponent(tensor)), max(-low, high)
    if not 0.0 < high < math.inf:
        return tensor
    power = math.frexp(high)[1]
    if abs(power) <= COMFORT:
        return tensor
    scaled: Tensor = attach(shifted(tensor, -power), exponent(tensor) + power)
    return scaled


def aligned(tensor: Tensor, power: int) -> Tensor:
    """The values of ``tensor`` when the power of two beside them is ``power``."""
    shift = exponent(tensor) - power
    # So far below the others it is nothing beside them, and its gradient would leave the range of float32.
    return tensor * 0.0 if shift < -STEP else shifted(tensor, shift)


def shifted(tensor: Tensor, power: int) -> Tensor:
    """``tensor * 2 ** power``, in steps that float32 holds."""
    while power:
        step = max(-STEP, min(STEP, power))
        tensor, power = tensor * math.ldexp(1.0, step), power - step
        if abs(power) > _LARGEST:  # nothing is left of it, or nothing beside it
            return tensor * scale(power)
    return tensor


def aligned_all(tree: Any, power: int) -> Any:
    """``aligned`` for every floating tensor in lists, tuples and dictionaries."""
    if isinstance(tree, Tensor):
        return aligned(tree, power) if tree.is_floating_point() else tree
    if type(tree) in (tuple, list):
        return type(tree)(aligned_all(item, power) for item in tree)
    if isinstance(tree, dict):
        return {key: aligned_all(item, power) for key, item in tree.items()}
    return tree


def scale(power: int) -> float:
    """``2 ** power``, infinite beyond what a float holds."""
    return math.ldexp(1.0, power) if power < _LARGEST else math.inf


def inverse(tensor: Tensor) -> Tensor:
    """``1 / tensor`` as a positive constant; zero stays zero."""
    value = tensor.detach().abs()
    nonzero = value != 0
    out: Tensor = attach(torch.where(nonzero, 1.0 / torch.where(nonzero, value, 1.0), 0.0), -exponent(tensor))
    return degree_zero(out)


def floating(tree: Any) -> Iterator[Tensor]:
    """Every floating tensor in lists, tuples and dictionaries."""
    if isinstance(tree, Tensor):
        if tree.is_floating_point():
            yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from floating(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from floating(item)
