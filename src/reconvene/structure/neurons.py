"""Spiking neurons: which modules are, and where they keep their membranes.

A neuron is a module that is given a drive and gives spikes, 0 or 1, of the same shape, first of all its outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from reconvene.structure.dynamics import DYNAMICS, Dynamics, NeuronDescription
from reconvene.structure.inputs import tensors_in


@dataclass(frozen=True)
class NeuronKind:
    """A class of neurons.

    ``membrane``: the attribute that holds the membrane after a step; ``sequence``: the attribute that holds those of
    all steps, where the module takes several at once, and ``keep_sequence`` the flag that makes it keep them.
    """

    membrane: str
    sequence: str = ""
    keep_sequence: str = ""

    def membrane_of(self, module: nn.Module) -> Tensor | None:
        """The membrane after the latest call: of every step, where the module keeps them."""
        steps = getattr(module, "step_mode", "") == "m" and self.sequence
        value = getattr(module, self.sequence if steps else self.membrane, None)
        return value if isinstance(value, Tensor) else None


NEURONS: dict[str, NeuronKind] = {
    "snntorch._neurons.neurons.SpikingNeuron": NeuronKind("mem"),
    "spikingjelly.activation_based.neuron.base_node.BaseNode": NeuronKind("v", "v_seq", "store_v_seq"),
}
"""Classes of neurons, subclasses included, by where they are defined: a library need not be installed."""
__all__ = ["NEURONS", "Dynamics", "NeuronKind", "neuron", "neuron_kind", "neurons", "spikes_in"]
N = TypeVar("N", bound=type[nn.Module])


def neuron(*, membrane: str, dynamics: NeuronDescription | None = None) -> Callable[[N], N]:
    """Register a class of neurons of your own: ``@neuron(membrane="mem")``.

    ``dynamics``: a function from such a neuron to its ``Dynamics``, where they have this form; NIR files need them.
    """

    def register(neuron_class: N) -> N:
        NEURONS[_address(neuron_class)] = NeuronKind(membrane)
        if dynamics is not None:
            DYNAMICS[_address(neuron_class)] = dynamics
        return neuron_class

    return register


def neuron_kind(module: nn.Module) -> NeuronKind | None:
    """What kind of neuron a module is; ``None`` if it is none."""
    return next((NEURONS[name] for base in type(module).__mro__ if (name := _address(base)) in NEURONS), None)


def neurons(model: nn.Module) -> dict[str, tuple[nn.Module, NeuronKind]]:
    """The neurons of a model, by their paths."""
    kinds = {name: (module, neuron_kind(module)) for name, module in model.named_modules()}
    return {name: (module, kind) for name, (module, kind) in kinds.items() if kind is not None}


def spikes_in(output: Any) -> Tensor:
    """The spikes among the outputs of a neuron: the first tensor."""
    return tensors_in(output)[0]


def _address(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
