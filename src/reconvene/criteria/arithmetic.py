"""How operators act in the positive linear counterpart of a network: by name, on tensors with exponents.

Every rule keeps two invariants, so that no sign of a weight or a constant can make flow negative or stop it:

- a live tensor holds no negative number, and every result grows with each of its live operands;
- the result is of degree one in the signal: twice the input is twice the output.

Hence differences are sums, constants that are added (or filled in) are biases and count as zero, constants that
multiply count by their absolute value, a product of several signals is their geometric mean, a power of a signal is the
signal, a divisor is a constant, and functions of one number (``exp``, ``log``, ``clamp``, ``neg``, ``round``) are the
identity. What reads no live tensor is computed as the model has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from reconvene.criteria.products import (
    POWERS,
    PRODUCTS,
    QUOTIENTS,
    REVERSED,
    WEIGHTED,
    Call,
    absolute,
    layer_product,
    power_of,
    product,
    quotient,
    separate_copy,
)
from reconvene.criteria.scaled_tensor import (
    STEP,
    aligned,
    aligned_all,
    attach,
    exponent,
    floating,
    gate,
    is_degree_zero,
    is_live,
    is_made_of_input,
    is_signal,
    live,
    scale,
    signal,
)


def positive_counterpart(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the positive linear counterpart of ``func``, whose name is ``name``, makes of these arguments."""
    operands = list(floating((args, kwargs)))
    if not any(is_live(operand) for operand in operands):
        return func(*args, **kwargs)
    if not args and "input" in kwargs:
        args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
    plain, in_place = plain_name(name)
    result = _RULES.get(plain, _homogeneous)((func, plain, args, dict(kwargs), in_place))
    changed = args[0] if name == "__setitem__" else result
    if any(is_signal(operand) for operand in operands) and not is_degree_zero(result):
        signal(changed)
    else:
        (gate if any(is_made_of_input(operand) for operand in operands) else live)(changed)
    return result


def plain_name(name: str) -> tuple[str, bool]:
    """``add`` for ``add``, ``add_``, ``__add__``, ``__radd__`` and ``__iadd__``; and whether it works in place."""
    plain = name.strip("_")
    if not name.startswith("__"):
        return plain, name.endswith("_")
    changed = plain[:1] in ("i", "r") and plain[1:] in OPERATORS and plain not in REVERSED
    return (plain[1:] if changed else plain), plain == "setitem" or (changed and plain[0] == "i")


def _homogeneous(call: Call) -> Any:
    """Of degree one in all floating arguments together: they are brought to one power of two first."""
    func, _, args, kwargs, in_place = call
    powers = [exponent(operand) for operand in floating((args, kwargs))]
    if not any(powers):
        return func(*args, **kwargs)
    common = max(powers)
    if in_place and isinstance(args[0], Tensor):
        _lifted(args[0], common)
    changed = (args[0], *aligned_all(args[1:], common)) if in_place else aligned_all(args, common)
    return attach(func(*changed, **aligned_all(kwargs, common)), common)


def _lifted(target: Tensor, power: int) -> None:
    """Bring a tensor that is written to up to a power of two, in place."""
    shift = exponent(target) - power
    if shift:
        target.mul_(scale(max(shift, -STEP)))  # what is smaller than that is nothing beside the other
        attach(target, power)


def _added(call: Call) -> Any:
    """Sums and differences: live operands are added, constants are biases and count as zero."""
    _, name, args, kwargs, in_place = call
    first: Any = args[0]
    second: Any = args[1] if len(args) > 1 else kwargs["other"]
    if not is_live(first):
        zero = torch.zeros_like(first) if isinstance(first, Tensor) else 0.0
        if in_place:
            first.zero_()
            return _homogeneous((torch.Tensor.add_, name, (first, second), {}, True))
        return attach(second + zero, exponent(second))
    if not is_live(second):
        zero = torch.zeros_like(second) if isinstance(second, Tensor) and not in_place else 0.0
        return first if in_place else attach(first + zero, exponent(first))
    weight = {"alpha": abs(kwargs["alpha"])} if "alpha" in kwargs else {}
    return _homogeneous((torch.Tensor.add_ if in_place else torch.add, name, (first, second), weight, in_place))


def _neutral(call: Call) -> Any:
    """A function of one number: the identity."""
    _, _, args, kwargs, in_place = call
    value = next(operand for operand in (*args, *kwargs.values()) if is_live(operand))
    return value if in_place else separate_copy(value)


def _filled(call: Call) -> Any:
    """Constants that stand in for part of a live tensor are zero, as biases are: a mask of minus infinity is one."""
    func, name, args, kwargs, in_place = call
    places = FILLED[name]
    values: list[Any] = list(args)
    for position in places:
        if position < len(values) and not is_live(values[position]):
            values[position] = torch.zeros_like(values[position]) if isinstance(values[position], Tensor) else 0.0
    named = {key: 0.0 if key == "value" and not is_live(value) else value for key, value in kwargs.items()}
    return _homogeneous((func, name, tuple(values), named, in_place))


def _extreme(call: Call) -> Any:
    """The larger or smaller of two: of a live tensor and a constant the live one."""
    _, _, args, kwargs, in_place = call
    operand = args[1] if len(args) > 1 else kwargs.get("other")
    if not isinstance(operand, Tensor) or (is_live(args[0]) and is_live(operand)) or not operand.is_floating_point():
        return _homogeneous(call)  # over a dimension, or of two live tensors
    return _added((torch.add, "add", (args[0], operand), {}, in_place))


def _averaged(call: Call) -> Any:
    """Spreads and soft maxima over dimensions: the mean, as softmax weighs all positions alike."""
    _, name, args, kwargs, _ = call
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    after = args[3:4] if name.startswith(("var", "std")) else args[2:3]
    keep = bool(kwargs.get("keepdim", *(after or (False,))))
    dims = None if isinstance(dims, bool) else dims
    mean = args[0].mean() if dims is None else args[0].mean(dim=dims, keepdim=keep)
    attach(mean, exponent(args[0]))
    return (mean, separate_copy(mean)) if name.endswith("_mean") else mean


def _sum_of_product(call: Call) -> Any:
    """``input + product(first, second)``."""
    _, name, args, _, _ = call
    multiply: Callable[..., Any] = SUMS_OF_PRODUCTS[name]
    if name == "lerp":
        return _added((torch.add, "add", (args[0], positive_counterpart(torch.mul, "mul", args[1:3], {})), {}, False))
    added = positive_counterpart(multiply, multiply.__name__, args[1:3], {})
    return _added((torch.add, "add", (args[0], added), {}, False))


def _compared(call: Call) -> Any:
    """A comparison with a number sees true values."""
    func, _, args, kwargs, _ = call
    power = max(exponent(operand) for operand in floating(args))
    numbers = [value * scale(-power) if isinstance(value, (int, float)) and value else value for value in args]
    return func(
        *(aligned(v, power) if isinstance(v, Tensor) and v.is_floating_point() else v for v in numbers), **kwargs
    )


def _created(call: Call) -> Any:
    """A new tensor in the shape of another: a constant."""
    func, _, args, kwargs, _ = call
    return func(*args, **kwargs)


def _interpolated(call: Call) -> Any:
    """Bicubic weights are negative in part; bilinear ones are not."""
    func, name, args, kwargs, in_place = call
    args = tuple("bilinear" if value == "bicubic" else value for value in args)
    kwargs = {
        key: "bilinear" if isinstance(value, str) and value == "bicubic" else value for key, value in kwargs.items()
    }
    return _homogeneous((func, name, args, kwargs, in_place))


def _joined(call: Call) -> Any:
    """Parts side by side; constants among them by absolute value."""
    func, name, args, kwargs, in_place = call
    parts, remaining_args = absolute(args[:1] or (kwargs.pop("tensors"),)), args[1:]
    return _homogeneous((func, name, (*parts, *remaining_args), kwargs, in_place))


SUMS = frozenset({"add", "sub", "subtract", "rsub"})
FUNCTIONS_OF_ONE_NUMBER = (
    frozenset({"exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "logit", "erf", "erfc", "erfinv", "nan_to_num"})
    | {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "sinc", "arctan"}
    | {"clamp", "clip", "clamp_min", "clamp_max", "floor", "ceil", "round", "trunc", "fix", "frac", "fmod", "remainder"}
    | {"neg", "negative", "sign", "sgn", "hardshrink", "softshrink", "tanhshrink", "threshold", "prelu", "rrelu"}
    | {f"fft_{prefix}fft{dims}" for prefix in ("", "i") for dims in ("", "2", "n")}
)
FILLED = {"where": (1, 2), "masked_fill": (2,), "setitem": (2,), "index_fill": (3,), "pad": (3,), "fill_diagonal": (1,)}
SUMS_OF_PRODUCTS: dict[str, Callable[..., Any]] = {
    "addmm": torch.mm,
    "addmv": torch.mv,
    "baddbmm": torch.bmm,
    "addcmul": torch.mul,
    "addcdiv": torch.div,
    "lerp": torch.mul,
}
CREATIONS = frozenset({f"{content}_like" for content in ("zeros", "ones", "empty", "full", "rand", "randn")}) | {
    f"new_{content}" for content in ("zeros", "ones", "empty", "full")
}
OPERATORS = frozenset({"add", "sub", "mul", "matmul", "truediv", "floordiv", "pow", "div", "mod"})
_RULES: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(FUNCTIONS_OF_ONE_NUMBER, _neutral),
    **dict.fromkeys(SUMS, _added),
    **dict.fromkeys(PRODUCTS, product),
    **dict.fromkeys(WEIGHTED, layer_product),
    **dict.fromkeys(QUOTIENTS | REVERSED, quotient),
    **dict.fromkeys({*POWERS, "pow", "float_power", "rpow"}, power_of),
    **dict.fromkeys(FILLED, _filled),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin", "max", "min"), _extreme),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean", "logsumexp", "prod"), _averaged),
    **dict.fromkeys(SUMS_OF_PRODUCTS, _sum_of_product),
    **dict.fromkeys(("gt", "lt", "ge", "le", "eq", "ne", "greater", "less"), _compared),
    **dict.fromkeys(CREATIONS, _created),
    **dict.fromkeys(("interpolate", "upsample", "grid_sample"), _interpolated),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack", "hstack", "vstack"), _joined),
}
