"""Estimated loss of rounding the inputs of layers to few bits, in the unit of ``weight_losses``.

With data: ``1/2 sum g^2 d^2`` over what a layer reads of one example, ``g`` the gradient of its loss and ``d`` the
error of rounding, averaged over examples. Without: the squared error of rounding relative to the squares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reconvene.costs.layers import Layer
from reconvene.criteria.batches import argument_names
from reconvene.criteria.few_examples import few_single_examples
from reconvene.criteria.gradients import explained, loss_of
from reconvene.criteria.preserve_state import call_with, untouched
from reconvene.errors import CriterionError
from reconvene.quantiser.activations import ActivationRange
from reconvene.structure.inputs import copied_arguments
from reconvene.utils.arrays import Floats
from reconvene.utils.module_tree import device_of
from reconvene.utils.progress import track

if TYPE_CHECKING:
    from reconvene.planning.options import Options

_EXAMPLES = 64
_USER = "criterion 'bits'"


def layer_of(weight: str) -> str:
    """Name of the layer that holds a weight."""
    return weight.rpartition(".")[0]


def tied_weights(model: nn.Module, layers: Sequence[Layer], weights: Sequence[str]) -> list[tuple[int, ...]]:
    """Numbers of the weights that read the same tensors, for every such set of tensors.

    Only of convolutions and linear layers as PyTorch has them, with a weight of their own: what another module computes
    with its weight is not what it is called with.
    """
    sources: dict[int, set[str]] = {}
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for layer in layers:
        if not layer.weight:
            continue
        module = model.get_submodule(layer_of(layer.weight))
        plain = isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))
        if plain and owners[id(module.weight)] == 1:
            sources.setdefault(layer.source, set()).add(layer.weight)
    together: list[set[str]] = []
    for readers in sources.values():
        touching = [several for several in together if several & readers]
        together = [several for several in together if several not in touching] + [readers.union(*touching)]
    number = {name: w for w, name in enumerate(weights)}
    return sorted(tuple(sorted(number[name] for name in several)) for several in together)


def input_losses_on_data(
    model: nn.Module, example_inputs: Any, layers: Sequence[str], bits: tuple[int, ...], options: Options
) -> dict[str, Floats]:
    """What each choice of bits loses by the name of the layer, ``[bits]``; of layers that are called.

    From up to 64 examples. Raises CriterionError for data or a loss that do not do.
    """
    device = device_of(model)
    names = argument_names(model, example_inputs)
    assert options.data is not None, "the caller has checked it"
    user, seed = "the plan of bits", options.seed
    examples = few_single_examples(options.data, _EXAMPLES, user=user, device=device, seed=seed, names=names)
    with _Watch(model, layers, bits) as watch, untouched(model, seed=options.seed):
        for number, (inputs, _) in enumerate(examples):
            with explained(_USER, number):
                watch.follow(inputs)
        totals = watch.nothing()
        for number, (inputs, target) in enumerate(track(examples, "gradients of activations", total=len(examples))):
            with explained(_USER, number):
                output, read = watch.record(inputs)
                loss = loss_of(options.loss, output, target, user=_USER)
                followed = [each for each in read if each.gate.requires_grad] if loss.requires_grad else []
                gates = [each.gate for each in followed]
                gradients = torch.autograd.grad(loss, gates, allow_unused=True) if gates else ()
            for each, gradient in zip(followed, gradients, strict=True):
                if gradient is not None:
                    totals[each.layer] += [_squares(gradient * error) for error in each.errors]
    return _finite({name: 0.5 * total / len(examples) for name, total in totals.items()})


def input_losses_by_noise(
    model: nn.Module, example_inputs: Any, layers: Sequence[str], bits: tuple[int, ...], *, seed: int
) -> dict[str, Floats]:
    """What each choice of bits loses by the name of the layer, ``[bits]``, on the example inputs."""
    with _Watch(model, layers, bits) as watch, untouched(model, seed=seed), torch.no_grad():
        watch.follow(example_inputs)
        totals = watch.nothing()
        for each in watch.record(example_inputs)[1]:
            squares = max(_squares(each.values), torch.finfo(torch.float32).tiny)
            totals[each.layer] += [_squares(error) / squares for error in each.errors]
    return _finite(totals)


def _squares(values: Tensor) -> float:
    """The sum of squares, in double precision: half would overflow."""
    return float(values.double().square().sum())


def _finite(losses: dict[str, Floats]) -> dict[str, Floats]:
    """The same losses. Raises CriterionError for a layer that reads what is not finite."""
    for layer, values in losses.items():
        if not np.isfinite(values).all():
            raise CriterionError(
                f"{_USER}: what layer {layer!r} reads, or its gradient, is not finite on these examples"
            )
    return losses


@dataclass(frozen=True, eq=False)
class _Read:
    """What a layer read in one call; ``gate`` is a zero added to it, ``errors`` those of rounding to each choice."""

    layer: str
    values: Tensor
    gate: Tensor
    errors: list[Tensor]


class _Watch:
    """Looks at what layers of a model read, within a ``with``: first their ranges, then errors of rounding."""

    def __init__(self, model: nn.Module, layers: Sequence[str], bits: tuple[int, ...]) -> None:
        self._model, self._layers, self._bits = model, layers, bits
        self._ranges: dict[str, list[ActivationRange]] = {}
        self._read: list[_Read] | None = None
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name in self._layers:
            module = self._model.get_submodule(name)
            self._hooks.append(module.register_forward_pre_hook(partial(self._look, name), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def nothing(self) -> dict[str, Floats]:
        """Zeros for every choice, by the name of each layer that was called."""
        return {name: np.zeros(len(self._bits)) for name in self._ranges}

    def follow(self, inputs: Any) -> None:
        """Take what layers read into their ranges."""
        with torch.no_grad():
            self._run(inputs)

    def record(self, inputs: Any) -> tuple[Any, list[_Read]]:
        """What the model outputs, and what its layers read."""
        self._read = []
        try:
            return self._run(inputs), self._read
        finally:
            self._read = None

    def _run(self, inputs: Any) -> Any:
        args, kwargs = copied_arguments(inputs)
        state = {name: tensor.detach() for name, tensor in self._model.named_parameters()}
        state |= {name: tensor.detach().clone() for name, tensor in self._model.named_buffers()}
        return call_with(self._model, state, args, kwargs)

    def _look(self, layer: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()), None)
        if values is None:
            return None
        if self._read is None:
            ranges = self._ranges.setdefault(layer, [ActivationRange(bits).to(values.device) for bits in self._bits])
            for each in ranges:
                each.cover(values)
            return None
        gate = torch.zeros_like(values).requires_grad_(torch.is_grad_enabled())
        seen = values.detach()
        self._read.append(_Read(layer, seen, gate, [each(seen) - seen for each in self._ranges[layer]]))
        gated = values + gate
        named = {name: gated if value is values else value for name, value in kwargs.items()}
        return tuple(gated if value is values else value for value in args), named
