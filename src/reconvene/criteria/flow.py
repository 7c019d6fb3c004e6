"""Synaptic flow: how much positive signal passes through every weight of a masked network, fast and without overflow.

One pass computes ``R = sum of outputs`` of the network with absolute weights, no biases and an all-ones input, run as
its positive linear counterpart (``linear``), and ``|w| * dR/d|w|`` for every weight (2006.05467, equation 6). It runs
in float32: ``scaled_tensor`` keeps numbers in range by powers of two, which is exact.

Weights lie channels last, which halves the time of convolutions on few pixels, and so do activations then. A model that
does not run so (``x.view(len(x), -1)`` after a convolution), or looks at strides, is run in the order it was written
for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.criteria.layers import broken_layer, refusing_layer
from reconvene.criteria.linearize import PositiveCounterpart
from reconvene.criteria.preserve_state import call_with, untouched
from reconvene.criteria.probe_input import describe_shapes, inputs_of_ones, smallest
from reconvene.criteria.scaled_tensor import aligned, exponent, positive, signal
from reconvene.criteria.weights import Layout, is_bias
from reconvene.errors import MODEL_REFUSALS, CriterionError
from reconvene.structure.capture import settle_state
from reconvene.structure.inputs import arguments, map_tensors, tensors_in
from reconvene.structure.neurons import neurons
from reconvene.utils.module_tree import device_of

_OTHERS = " Criteria 'magnitude' and 'random' do not run the network; 'snip' and 'grasp' run it as it is, on data."


class Flow:
    """The flow network of ``model``: its stand-in weights and its input.

    ``small`` lets it use a smaller input than the given one where the model accepts that and every convolution still
    sees its whole kernel; ``input`` says in words what it used. The model is run, never changed.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, *, small: bool) -> None:
        self.model, self.layout = model, Layout.of(model)
        self._device = device_of(model)
        self._inputs = example_inputs
        self._signed: bool | None = None
        self._channels_last = True
        self._double: Tensor | None = None
        self.evened: tuple[str, ...] = ()
        self._take()
        if neurons(model):
            settle_state(model, example_inputs)
        with untouched(model):
            with torch.no_grad():
                if self._extents(example_inputs) is None:
                    self._channels_last = False
                self._inputs = smallest(example_inputs, self._extents, spatial=small)
            self._require_signal()
        self.input = f"ones {describe_shapes(self._inputs)} (given {describe_shapes(example_inputs)})"

    def scores(self, alive: Tensor | None = None) -> Tensor:
        """Flow through every weight ``[N]`` (CPU) under a mask ``[N]`` (bool), as a share of R.

        The flow through a weight that no signal reaches, or that reaches no output, is exactly zero. The result lies in
        a buffer that the next call writes over: fresh memory for it would cost as much as the pass itself.
        """
        self._mask(alive)
        scores = self._scores
        with untouched(self.model):
            leaves = {name: view.detach().requires_grad_() for name, view in self._views.items()}
            total, _ = self._total(leaves)
            if float(total.detach()) == 0.0:
                return scores.zero_().cpu()
            share = total * (1.0 / float(total.detach()))  # an output gradient would make PyTorch import sympy
            gradients = torch.autograd.grad(share, list(leaves.values()), allow_unused=True)
        with torch.no_grad():
            for score, leaf, gradient in zip(
                self.layout.views(scores).values(), self._views.values(), gradients, strict=True
            ):
                score.zero_() if gradient is None else torch.mul(leaf, gradient, out=score)
            if self._signed is None:  # masks only take away: what holds for the dense network holds from then on
                self._signed = self._examine(scores)
        return (scores.abs_() if self._signed else scores).cpu()

    def exact(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """The scores of the network last scored at some places of the flat buffer, in float64.

        Which of two weights leaves may hang on the eighth digit, and what follows from it is not small. A pass in
        float64 where float32 cannot tell gives the masks of float64, whatever the machine or its number of threads.
        """
        if self._double is None:
            self._double = self._flat.double()
        leaves = self.layout.views(self._double.copy_(self._flat))
        starts = np.cumsum([0, *self.layout.sizes])
        owners = np.searchsorted(starts, places, side="right") - 1
        names = [self.layout.names[owner] for owner in np.unique(owners)]
        with untouched(self.model):
            leaves |= {name: leaves[name].detach().requires_grad_() for name in names}
            total, _ = self._total(leaves)
            gradients = torch.autograd.grad(total, [leaves[name] for name in names], allow_unused=True)
        scores = np.zeros(places.size)
        for owner, gradient in zip(np.unique(owners), gradients, strict=True):
            if gradient is not None:
                positions = torch.from_numpy(places[owners == owner])
                local = gradient.movedim(1, -1).reshape(-1)[(positions - starts[owner]).to(self._device)]
                scores[owners == owner] = (local.cpu() * self._double[positions.to(self._device)].cpu()).abs().numpy()
        return scores

    def log2_total(self, masks: Mapping[str, Tensor] | None = None) -> float:
        """``log2`` of R with weights multiplied by masks that broadcast to them; minus infinity if nothing flows."""
        self._mask(None)
        with untouched(self.model), torch.no_grad():
            masked = {name: self._views[name] * mask.to(self._flat) for name, mask in (masks or {}).items()}
            total, power = self._total(self._views | masked)
        return math.log2(float(total)) + power if float(total) > 0 else -math.inf

    def _take(self) -> None:
        """Absolute weights, no biases, and the other parameters as they are."""
        parameters = dict(self.model.named_parameters())
        self._flat = self.layout.flatten(parameters).abs_()
        self._pristine, self._scores = self._flat.clone(), torch.empty_like(self._flat)
        self._alive: Tensor | None = None
        self._views = self.layout.views(self._flat)
        self._unscored: dict[str, Tensor] = {}
        for name, value in [*parameters.items(), *self.model.named_buffers()]:
            if name not in self._views:
                value = value.detach().float() if value.is_floating_point() else value.detach()
                self._unscored[name] = torch.zeros_like(value) if is_bias(name) else value.clone()

    def _mask(self, alive: Tensor | None) -> None:
        """Set the weights outside the mask to zero, in place; anew from the dense network if some come back."""
        if alive is self._alive:
            return
        if self._alive is not None and (alive is None or (alive.numpy() > self._alive.numpy()).any()):
            self._flat.copy_(self._pristine)
        if alive is not None and self._device.type == "cpu":
            values = self._flat.numpy()
            np.multiply(values, alive.numpy(), out=values)  # four times faster than torch's multiplication by bool
        elif alive is not None:
            self._flat.mul_(alive.to(self._device))
        self._alive = alive

    def _total(self, leaves: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Sum over every floating tensor the model returns, and the power of two it stands multiplied by."""
        outputs = [output for output in tensors_in(self._run(leaves)) if output.is_floating_point()]
        if not outputs:
            raise CriterionError(f"the model returns no floating tensor, so there is no output to sum.{_OTHERS}")
        power = max(exponent(output) for output in outputs)
        total = torch.stack([aligned(output, power).abs().sum() for output in outputs]).sum()
        if not float(total.detach()) < math.inf:
            layer_note = broken_layer(
                self.model, lambda: self._run(self._views), lambda tensor: not tensor.isfinite().all()
            )
            raise CriterionError(
                f"the sum of outputs under absolute weights is {float(total)}{layer_note}: there is no flow to share "
                f"out.{_OTHERS}"
            )
        return total, power

    def _run(self, leaves: Mapping[str, Tensor], mode: PositiveCounterpart | None = None) -> Any:
        dtype = next(iter(leaves.values())).dtype
        inputs = inputs_of_ones(self._inputs, dtype, self._device, channels_last=self._channels_last)
        args, kwargs = arguments(signal(inputs))
        ordered = {name: leaf if self._channels_last else leaf.contiguous() for name, leaf in leaves.items()}
        weights = {name: positive(leaf) for name, leaf in ordered.items()}
        unscored = {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in self._unscored.items()
        }
        try:
            with _transparent_neurons(self.model), mode or PositiveCounterpart():
                return call_with(self.model, {**unscored, **weights}, args, kwargs)
        except MODEL_REFUSALS as error:
            layer_note = refusing_layer(error, self.model)
            raise CriterionError(
                f"the model does not run on ones of {describe_shapes(self._inputs)}{layer_note}: {error}.{_OTHERS}"
            ) from error

    def _extents(self, inputs: Any) -> list[tuple[int, int]] | None:
        before, self._inputs, mode = self._inputs, inputs, PositiveCounterpart()
        try:
            self._run(self._views, mode)
        except CriterionError:
            return None
        finally:
            self._inputs = before
        self._channels_last &= not mode.reads_strides
        return mode.extents

    def _require_signal(self) -> None:
        """See that something flows. A recipe may start the last layer at zero: it says nothing, so it counts evenly."""
        if self._flows():
            return
        for name, view in self._views.items():
            if name.rpartition(".")[2] == "weight" and not view.any():
                view.fill_(view[0].numel() ** -0.5)
                self.evened += (name,)
        self._pristine.copy_(self._flat)
        if not self.evened or not self._flows():
            silent = [name for name, view in self._views.items() if not view.any()]
            hint = f" These parameters are all zero: {', '.join(silent)}. Initialize them first." if silent else ""
            layer_note = broken_layer(self.model, lambda: self._run(self._views), lambda tensor: not tensor.any())
            raise CriterionError(
                f"no signal reaches the output of the network under absolute weights{layer_note}.{hint}{_OTHERS}"
            )

    def _flows(self) -> bool:
        """Whether anything reaches the output; with gradients on, since what passes flow may be known by them."""
        leaves = {name: view.detach().requires_grad_() for name, view in self._views.items()}
        return float(self._total(leaves)[0].detach()) > 0.0

    def _examine(self, scores: Tensor) -> bool:
        """Whether some flow is negative, as an operator without a rule may make it; an error if some is not finite."""
        low, high = (float(extreme) for extreme in torch.aminmax(scores))
        if not math.isfinite(low + high):
            broken = [name for name, view in self.layout.views(scores).items() if not torch.isfinite(view).all()]
            raise CriterionError(f"the flow through these weights is not finite: {', '.join(broken)}.{_OTHERS}")
        return low < 0.0


@contextmanager
def _transparent_neurons(model: nn.Module) -> Iterator[None]:
    """Within: spiking neurons pass their drive on, in place of spikes and of membranes.

    A spike has no derivative, and the one that training puts in its place would let the flow leak at every layer.
    """

    def passed(module: nn.Module, args: Any, output: Any) -> Any:
        drive = tensors_in(args)[0]
        return map_tensors(lambda tensor: drive if tensor.shape == drive.shape else tensor, output)

    with ExitStack() as stack:
        for module, _ in neurons(model).values():
            stack.callback(module.register_forward_hook(passed).remove)
        yield
