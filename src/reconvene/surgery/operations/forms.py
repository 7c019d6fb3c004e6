"""What can stand in the place of a non-linear operation: the table of ``forms.toml``, and the modules it names."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.errors import ArtifactError, UnknownNameError

NEWTON_STEPS = 6
SOFTMAX_RANGE, SOFTMAX_SQUARES = 11.0, 4


@dataclass(frozen=True)
class OperationForm:
    """One entry of the table.

    Attributes:
        operations: what it may replace.
        emits: the operations that it is computed with, beside additions and multiplications.
        steps: what a runtime computes for it, in the words of device profiles.
        fitted: whether numbers of it are fitted to what a site sees.
    """

    name: str
    operations: tuple[str, ...]
    emits: tuple[str, ...]
    steps: tuple[str, ...]
    fitted: bool = False


@cache
def forms() -> Mapping[str, OperationForm]:
    """Every form by its name."""
    return {
        name: OperationForm(
            name, tuple(entry["operations"]), tuple(entry["emits"]), tuple(entry["steps"]), entry.get("fitted", False)
        )
        for name, entry in _table()["forms"].items()
    }


@cache
def calls() -> Mapping[str, str]:
    """From the short name of a recorded call to the operation that it is."""
    return dict(_table()["calls"])


@cache
def operations() -> tuple[str, ...]:
    """Names of all operations that the table knows."""
    return tuple(dict.fromkeys([*calls().values(), *(name for form in forms().values() for name in form.emits)]))


POLYNOMIAL = "polynomial"
"""The operation that is allowed only by its name."""


def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("forms.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Replacement:
    """A form with its numbers, as artifacts keep it: ``polynomial2:0.19,0.5,0.2``."""

    form: str
    numbers: tuple[float, ...] = ()

    def __str__(self) -> str:
        numbers = ",".join(repr(float(number)) for number in self.numbers)
        return f"{self.form}:{numbers}" if numbers else self.form

    @classmethod
    def parse(cls, text: str) -> Replacement:
        """Undo ``str``. Raises UnknownNameError for a form that there is not, ArtifactError for what is no number."""
        name, _, numbers = text.partition(":")
        if name not in forms():
            raise UnknownNameError("form of an operation", name, forms())
        try:
            return cls(name, tuple(float(number) for number in numbers.split(",") if number))
        except ValueError as error:
            raise ArtifactError(f"{text!r} is not a form of an operation: {error}") from error

    def module(self, before: nn.Module) -> nn.Module:
        """The module that takes the place of ``before``. Raises ArtifactError where the numbers do not fit."""
        try:
            module = _MODULES[self.form](before, *self.numbers)
        except TypeError as error:
            raise ArtifactError(f"{self} does not fit the place of {type(before).__name__}: {error}") from error
        return module.train(before.training)


class ScaledReLU6(nn.Module):
    """``relu6(x + 3) / 6``, times ``x`` where ``gated``: hard-sigmoid and hard-swish from what chips have.

    ``relu_alone``: ReLU6 as the difference of two ReLUs.
    """

    def __init__(self, *, gated: bool, relu_alone: bool = False) -> None:
        super().__init__()
        self.gated, self.relu_alone = gated, relu_alone

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        relu = nn.functional.relu
        gate = relu(input + 3.0) - relu(input - 3.0) if self.relu_alone else nn.functional.relu6(input + 3.0)
        return input * gate * (1.0 / 6.0) if self.gated else gate * (1.0 / 6.0)


class SigmoidGELU(nn.Module):
    """``x sigmoid(1.702 x)`` (Hendrycks and Gimpel, arXiv 1606.08415)."""

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        return input * torch.sigmoid(1.702 * input)


class IntegerGELU(nn.Module):
    """I-BERT's i-GELU (Kim et al., arXiv 2101.01321): a polynomial of degree two for the error function, clipped.

    ``x/2 (1 + sgn(x) h(|x| / sqrt 2))`` with ``h(t) = a (min(t, -b) + b)^2 + 1`` needs no sign: it is
    ``(x + |x| h) / 2``, and absolute value and minimum are sums of ReLUs.
    """

    A, B = -0.2888, -1.769

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise."""
        size = nn.functional.relu(input) + nn.functional.relu(-input)
        distance = nn.functional.relu(-self.B - size * 0.5**0.5)
        return 0.5 * (input + size * (self.A * distance * distance + 1.0))


class IntegerSoftmax(nn.Module):
    """Softmax with I-BERT's polynomial for the exponential, ``.3585 (t + 1.353)^2 + .344`` on ``[-ln 2, 0]``.

    I-BERT shifts by powers of two; here the argument is divided by 16 and the result squared four times, so that
    additions, multiplications, one ReLU, one maximum and one division are left. Scores more than 11 below the largest
    count as 11 below it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Along ``dim``."""
        below = input - input.amax(self.dim, keepdim=True)
        part = (nn.functional.relu(below + SOFTMAX_RANGE) - SOFTMAX_RANGE) * 0.5**SOFTMAX_SQUARES
        power = 0.3585 * (part + 1.353) * (part + 1.353) + 0.344
        for _ in range(SOFTMAX_SQUARES):
            power = power * power
        return power / power.sum(self.dim, keepdim=True)


class Polynomial(nn.Module):
    """``c0 + c1 x + c2 x^2 + ...``, of degree one to four."""

    def __init__(self, *coefficients: float) -> None:
        super().__init__()
        self.coefficients = coefficients

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise, by squares: encrypted numbers go through as few products after each other as there can be."""
        square = input * input
        constant, slope, *others = self.coefficients
        result = input * slope
        for degree, coefficient in enumerate(others, start=2):
            power = square if degree == 2 else square * (input if degree == 3 else square)
            result = result + power * coefficient
        return result + constant

    def extra_repr(self) -> str:
        """The coefficients."""
        return ", ".join(f"{value:.4g}" for value in self.coefficients)


class NewtonLayerNorm(nn.Module):
    """Layer norm whose inverse root is found by Newton's method, ``y <- y (3 - v y^2) / 2``, from ``start``.

    It converges where ``v start^2 < 3``: ``start`` is the inverse root of the largest variance that was seen.
    """

    def __init__(self, before: nn.LayerNorm, start: float) -> None:
        super().__init__()
        self.weight, self.bias = before.weight, before.bias
        self.start, self.eps = start, before.eps

    def forward(self, input: Tensor) -> Tensor:
        """Over the last dimension."""
        centred = input - input.mean(-1, keepdim=True)
        variance = (centred * centred).mean(-1, keepdim=True) + self.eps
        root = torch.full_like(variance, self.start)
        for _ in range(NEWTON_STEPS):
            root = root * (1.5 - 0.5 * variance * root * root)
        result = centred * root
        result = result if self.weight is None else result * self.weight
        return result if self.bias is None else result + self.bias


class ChannelsLastBatchNorm(nn.BatchNorm1d):
    """Batch norm of ``[B, ..., C]``."""

    def forward(self, input: Tensor) -> Tensor:
        """Over everything but the last dimension."""
        return super().forward(input.flatten(0, -2)).view_as(input)


_BATCH_NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _batch_norm(before: nn.Module, axis: float = -1.0, rank: float = 4.0) -> nn.Module:
    """Batch norm of as many channels, on the device and in the type of the layer norm; its numbers are filled in."""
    shape: tuple[int, ...] = tuple(getattr(before, "normalized_shape", ()))
    if len(shape) != 1:
        raise TypeError(f"it normalises {len(shape)} dimensions together")
    kind = _BATCH_NORMS[int(rank)] if axis == 1 else ChannelsLastBatchNorm
    norm = kind(shape[0])
    weight: Tensor | None = getattr(before, "weight", None)
    return norm if weight is None else norm.to(weight.device, weight.dtype)


def _dimension(before: nn.Module) -> int:
    dim = getattr(before, "dim", None)
    return -1 if dim is None else int(dim)


_MODULES: dict[str, Callable[..., nn.Module]] = {
    "relu": lambda before: nn.ReLU(),
    "relu6": lambda before: nn.ReLU6(),
    "hardswish": lambda before: nn.Hardswish(),
    "hardsigmoid": lambda before: nn.Hardsigmoid(),
    "hardswish_relu6": lambda before: ScaledReLU6(gated=True),
    "hardsigmoid_relu6": lambda before: ScaledReLU6(gated=False),
    "hardswish_relu": lambda before: ScaledReLU6(gated=True, relu_alone=True),
    "hardsigmoid_relu": lambda before: ScaledReLU6(gated=False, relu_alone=True),
    "gelu_sigmoid": lambda before: SigmoidGELU(),
    "integer_gelu": lambda before: IntegerGELU(),
    "integer_softmax": lambda before, dim=None: IntegerSoftmax(_dimension(before) if dim is None else int(dim)),
    "newton_layer_norm": NewtonLayerNorm,
    "polynomial2": lambda before, a, b, c: Polynomial(a, b, c),
    "polynomial4": lambda before, a, b, c, d, e: Polynomial(a, b, c, d, e),
    "batch_norm": _batch_norm,
}
