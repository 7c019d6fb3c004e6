"""How the membranes of spiking neurons move from one time step to the next, for neurons that are known so well.

In a step a membrane becomes ``rest + decay (membrane - rest) + gain drive``, and the neuron spikes where that is above
its threshold. Neurons with a synapse are driven by a current: ``current = synapse current + input``. Recurrent neurons
add to their input what their own spikes of the step before cause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

Value = Tensor | float


@dataclass(frozen=True)
class Dynamics:
    """One kind of leaky neuron; ``decay`` and ``threshold`` may differ by channel.

    Attributes:
        decay: share of the membrane that stays in a step; 1 of neurons that do not leak.
        threshold: above which a neuron spikes.
        reset: what a spike does to the membrane: ``subtract`` the threshold, or set it to ``reset_value``.
        gain: what the drive is multiplied by.
        rest: what the membrane leaks to.
        reset_value: of ``reset="value"``.
        delayed: whether the threshold is subtracted in the next step, behind its decay.
        inclusive: whether a membrane that equals the threshold spikes, too.
        synapse: share of the current that stays in a step; ``None``: the input itself is the drive.
        recurrent: what the neuron's own spikes of the last step pass on their way into its input: a linear layer, a
            convolution, or a weight for every neuron; ``None`` of neurons that do not read their own spikes.
    """

    decay: Value
    threshold: Value
    reset: Literal["subtract", "value"] = "subtract"
    gain: Value = 1.0
    rest: float = 0.0
    reset_value: float = 0.0
    delayed: bool = False
    inclusive: bool = False
    synapse: Value | None = None
    recurrent: nn.Module | Value | None = None


NeuronDescription = Callable[[Any], Dynamics]
"""The dynamics of a neuron; raises ValueError, with the reason, where its options leave this form."""


def _snntorch_leaky(neuron: Any) -> Dynamics:
    if neuron.inhibition or neuron.state_quant or bool((neuron.graded_spikes_factor != 1).any()):
        raise ValueError("inhibition, quantised states and graded spikes are not dynamics of a leaky neuron")
    decay, reset = neuron.beta.detach().clamp(0, 1), neuron.reset_mechanism
    if reset == "zero" and neuron.reset_delay:
        return Dynamics(decay, neuron.threshold, reset="value")
    if reset == "subtract" and neuron.reset_delay:
        return Dynamics(decay, neuron.threshold, delayed=True)
    raise ValueError(f"reset_mechanism={reset!r} with reset_delay={neuron.reset_delay} is not a known reset")


def _snntorch_synaptic(neuron: Any) -> Dynamics:
    dynamics = _snntorch_leaky(neuron)
    if dynamics.reset == "value":
        raise ValueError("reset_mechanism='zero' resets the current, too. Use 'subtract'")
    return replace(dynamics, synapse=neuron.alpha.detach().clamp(0, 1))


def _snntorch_recurrent(neuron: Any) -> Dynamics:
    dynamics = _snntorch_leaky(neuron)
    if dynamics.reset == "value":
        raise ValueError("reset_mechanism='zero' resets what enters with it, too. Use 'subtract'")
    return replace(dynamics, recurrent=neuron.recurrent if neuron.all_to_all else neuron.V.detach())


def _spikingjelly(neuron: Any, decay: Value, gain: Value) -> Dynamics:
    rest = 0.0 if neuron.v_reset is None else float(neuron.v_reset)
    reset: Literal["subtract", "value"] = "subtract" if neuron.v_reset is None else "value"
    return Dynamics(decay, neuron.v_threshold, reset, gain, rest, rest, inclusive=True)


def _spikingjelly_leaky(neuron: Any) -> Dynamics:
    rate = neuron.w.detach().sigmoid() if hasattr(neuron, "w") else torch.tensor(1 / neuron.tau)
    return _spikingjelly(neuron, 1 - rate, rate if neuron.decay_input else 1.0)


DYNAMICS: dict[str, NeuronDescription] = {
    "snntorch._neurons.leaky.Leaky": _snntorch_leaky,
    "snntorch._neurons.synaptic.Synaptic": _snntorch_synaptic,
    "snntorch._neurons.rleaky.RLeaky": _snntorch_recurrent,
    "spikingjelly.activation_based.neuron.integrate_and_fire.IFNode": lambda n: _spikingjelly(n, 1.0, 1.0),
    "spikingjelly.activation_based.neuron.lif.LIFNode": _spikingjelly_leaky,
    "spikingjelly.activation_based.neuron.plif.ParametricLIFNode": _spikingjelly_leaky,
}
"""Dynamics by the class that defines ``forward``. Those of your own come here by ``neuron(dynamics=...)``."""


def dynamics_of(module: nn.Module) -> Dynamics | None:
    """The dynamics of a neuron; ``None`` where they are not known. Raises ValueError where its options leave them."""
    for base in type(module).__mro__:
        description = DYNAMICS.get(f"{base.__module__}.{base.__qualname__}")
        if description is not None and type(module).forward is base.forward:  # type: ignore[attr-defined]
            return description(module)
    return None
