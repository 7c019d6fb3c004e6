"""SGD with Nesterov momentum, in four passes over memory.

``torch.optim`` computes the same (a test holds us to it), but constructing any of its optimizers imports torch's
compiler, 2 s before the first step, and its default loop takes five times as long on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reconvene.errors import TrainingError


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name. Raises TrainingError where all are frozen."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise TrainingError(
            "there is nothing to train: every parameter of the network is frozen (requires_grad is False). Try: "
            "model.requires_grad_(True)"
        )
    return parameters


class Nesterov:
    """``v <- m v + g; w <- w - lr (g + m v)`` where ``g`` is the gradient plus weight decay (Sutskever et al. 2013).

    Weights of two dimensions and more decay; norms and biases do not. ``momentum_tensors`` holds ``v`` by the name of
    the parameter, each in the memory layout of it, so that restored ones go through the same arithmetic.
    """

    def __init__(self, model: nn.Module, *, momentum: float, weight_decay: float) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        self.parameters = trainable(model)
        self.momentum_tensors = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    @property
    def gradients(self) -> list[Tensor]:
        """Those of the last backward pass; parameters without one are left out."""
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    @torch.no_grad()
    def clip(self, limit: float | None) -> float:
        """Scale the gradients down together so that their common norm is at most ``limit``; the norm they had."""
        gradients = self.gradients
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        norm = float(torch.linalg.vector_norm(norms))
        if limit is not None and norm > limit:
            for gradient in gradients:
                gradient.mul_(limit / norm)
        return norm

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter that has a gradient, and use the gradients up."""
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            velocity, gradient = self.momentum_tensors[name], p.grad
            if p.ndim >= 2:
                gradient.add_(p, alpha=self.weight_decay)
            torch.add(gradient, velocity, alpha=self.momentum, out=velocity)
            p.add_(gradient, alpha=-lr).add_(velocity, alpha=-lr * self.momentum)
            p.grad = None


class AdamW(Nesterov):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), on weights of two dimensions and more.

    ``m <- b1 m + (1 - b1) g; s <- b2 s + (1 - b2) g^2; w <- w - lr (m' / (sqrt(s') + eps) + decay w)``; ``m'`` and
    ``s'`` are corrected for their start at zero. ``momentum_tensors`` holds ``m``, ``s`` and the number of steps, so
    that a restored run goes on to the same bytes.
    """

    SECOND, EPSILON = 0.999, 1e-8

    def __init__(self, model: nn.Module, *, momentum: float, weight_decay: float) -> None:
        super().__init__(model, momentum=momentum, weight_decay=weight_decay)
        first = dict(self.momentum_tensors)
        squares = {f"{name}.square": torch.zeros_like(p) for name, p in self.parameters.items()}
        self.momentum_tensors = {**first, **squares, "steps": torch.zeros(())}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter that has a gradient, and use the gradients up."""
        steps = self.momentum_tensors["steps"].add_(1)
        first, second = 1 - self.momentum ** float(steps), 1 - self.SECOND ** float(steps)
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            mean, square = self.momentum_tensors[name], self.momentum_tensors[f"{name}.square"]
            mean.lerp_(p.grad, 1 - self.momentum)
            square.mul_(self.SECOND).addcmul_(p.grad, p.grad, value=1 - self.SECOND)
            if p.ndim >= 2:
                p.mul_(1 - lr * self.weight_decay)
            p.addcdiv_(mean, (square / second).sqrt_().add_(self.EPSILON), value=-lr / first)
            p.grad = None
