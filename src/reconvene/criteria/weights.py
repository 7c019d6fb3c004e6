"""Which parameters a criterion scores, and how they lie in one flat buffer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from reconvene.errors import CriterionError
from reconvene.structure.neurons import neurons


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters a criterion scores, by name and in model order: convolution and linear style weights.

    These are the floating parameters with two dimensions or more that hold anything. Biases (whatever their shape, so
    position-bias tables too), the one-dimensional parameters of norm layers, and the decays and thresholds of spiking
    neurons are not scored. A tied parameter appears once, under its first name.
    """
    of_neurons = {id(p) for module, _ in neurons(model).values() for p in module.parameters(recurse=False)}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point()
        and not is_bias(name)
        and id(parameter) not in of_neurons
        and (is_lazy(parameter) or (parameter.ndim >= 2 and parameter.numel()))
    }


def is_bias(name: str) -> bool:
    """Whether a parameter is additive, by its name: the last part speaks of a bias."""
    return "bias" in name.rpartition(".")[2]


@dataclass(frozen=True)
class Layout:
    """Where each weight lies in a flat buffer: weights in model order, channels last in each.

    (``[out, in, h, w]`` lies as ``[out, h, w, in]``: convolutions on few pixels then read it in order, which halves
    their time.)
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """Layout of a model's weights.

        Raises ``CriterionError`` if there is nothing to score, a parameter has no shape yet, or one is not finite.
        """
        scored = weights(model)
        for name, parameter in model.named_parameters():
            if is_lazy(parameter):
                raise CriterionError(
                    f"parameter {name!r} is lazy and has no shape yet. Run the model once before scoring it."
                )
            if not torch.isfinite(parameter.detach()).all():  # an inference tensor cannot be tracked
                raise CriterionError(
                    f"parameter {name!r} holds values that are not finite (NaN or infinity). Load finite weights, or "
                    "build an untrained model again"
                )
        if not sum(parameter.numel() for parameter in scored.values()):
            raise CriterionError(
                f"nothing to score: {type(model).__name__} has no floating parameter with two dimensions or more."
            )
        return cls(tuple(scored), tuple(parameter.shape for parameter in scored.values()))

    @property
    def sizes(self) -> list[int]:
        """Number of elements of each weight."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def total(self) -> int:
        """Number of elements of all weights together."""
        return sum(self.sizes)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The flat buffer ``[total]`` seen as one tensor per weight; they share its memory."""
        pieces = torch.split(flat, self.sizes)
        return {
            name: piece.view(shape[:1] + shape[2:] + shape[1:2]).movedim(-1, 1)
            for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }

    def flatten(self, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """One flat buffer ``[total]`` from one tensor per weight; a copy."""
        return torch.cat([tensors[name].detach().movedim(1, -1).reshape(-1).to(dtype) for name in self.names])
