"""Adam for a few parameters, whose state is plain tensors that a checkpoint can hold."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST, SECOND, SMALL = 0.9, 0.999, 1e-8


class Adam:
    """Adam (1412.6980) without weight decay, as ``torch.optim.Adam`` computes it; importing that takes two seconds.

    ``tensors`` are the parameters' moments and the number of steps, by name.
    """

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.parameters = parameters
        self.tensors = {"steps": torch.zeros((), dtype=torch.int64)}
        for name, parameter in parameters.items():
            self.tensors |= {f"{name}/mean": torch.zeros_like(parameter), f"{name}/square": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter that has a gradient, and use the gradients up."""
        self.tensors["steps"] += 1
        steps = int(self.tensors["steps"])
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            mean, square = self.tensors[f"{name}/mean"], self.tensors[f"{name}/square"]
            mean.lerp_(parameter.grad, 1 - FIRST)
            square.mul_(SECOND).addcmul_(parameter.grad, parameter.grad, value=1 - SECOND)
            root = (square / (1 - SECOND**steps)).sqrt_().add_(SMALL)
            parameter.addcdiv_(mean, root, value=-lr / (1 - FIRST**steps))
            parameter.grad = None
