"""Synaptic operations of spiking networks: additions that spikes cause, counted on data.

A synaptic operation is an input that is not zero meeting a weight that is not zero, at a position that lies in the
output (borders count exactly, as NeuroBench does). In a call all of whose inputs are -1, 0 or 1 they are additions
(``AC``), else multiply-accumulates (``MAC``): average pooling of spikes, and an image given as currents, make the
layers that read them MACs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from reconvene.costs.base import Cost, CostFunction, Network
from reconvene.costs.unit import COUNT, metric_unit
from reconvene.errors import BudgetError, ReconveneError
from reconvene.utils.tables import text_table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reconvene.structure import Structure
    from reconvene.structure.recording import Recording

MAC_JOULES, AC_JOULES = 4.6e-12, 0.9e-12
"""32-bit floating point in 45 nm (Horowitz, ISSCC 2014): arithmetic alone, without memory."""
_PRODUCTS = frozenset({"convolution", "addmm", "mm", "bmm", "baddbmm"})
ENERGY_TABLE = "4.6 pJ a MAC and 0.9 pJ an AC (32-bit float in 45 nm, Horowitz, ISSCC 2014)"


@dataclass
class LayerSynops:
    """One layer, per example: ``ac`` additions, ``mac`` multiply-accumulates, ``rate`` the share of inputs not zero."""

    layer: str
    ac: float = 0.0
    mac: float = 0.0
    active: float = 0.0
    inputs: float = 0.0

    @property
    def rate(self) -> float:
        """Share of the inputs, over all time steps, that are not zero."""
        return self.active / self.inputs if self.inputs else 0.0


@dataclass
class NeuronRate:
    """One layer of neurons, per example: ``spikes``, and ``updates`` of membranes: neurons times time steps."""

    layer: str
    spikes: float = 0.0
    updates: float = 0.0

    @property
    def rate(self) -> float:
        """Spikes a neuron and time step."""
        return self.spikes / self.updates if self.updates else 0.0


@dataclass(frozen=True)
class Synops:
    """Synaptic operations of one example, by layer; means over the examples of the data.

    ``neurons`` are the layers of spiking neurons, ``footprint`` the bytes of parameters and buffers, without membranes.
    ``uncounted`` names layers with matrix products that are not in the counts (attention, recurrent layers).
    """

    layers: tuple[LayerSynops, ...]
    examples: int
    neurons: tuple[NeuronRate, ...] = ()
    footprint: int = 0
    uncounted: tuple[str, ...] = ()

    @property
    def ac(self) -> float:
        """Additions."""
        return sum(layer.ac for layer in self.layers)

    @property
    def mac(self) -> float:
        """Multiply-accumulates."""
        return sum(layer.mac for layer in self.layers)

    @property
    def operations(self) -> float:
        """Additions and multiply-accumulates together."""
        return self.ac + self.mac

    @property
    def membrane_updates(self) -> float:
        """Neurons times time steps."""
        return sum(neuron.updates for neuron in self.neurons)

    @property
    def spike_rate(self) -> float:
        """Spikes a neuron and time step, over all layers of neurons."""
        return sum(neuron.spikes for neuron in self.neurons) / self.membrane_updates if self.neurons else 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Synops:
        """Undo ``to_dict``."""
        layers = tuple(LayerSynops(**layer) for layer in values["layers"])
        rates = tuple(NeuronRate(**neuron) for neuron in values["neurons"])
        return cls(layers, values["examples"], rates, values["footprint"], tuple(values.get("uncounted", ())))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        totals = {"ac": self.ac, "mac": self.mac, "joules": self.joules, "membrane_updates": self.membrane_updates}
        layers = [asdict(layer) for layer in self.layers], [asdict(neuron) for neuron in self.neurons]
        lists = {"layers": layers[0], "neurons": layers[1], "examples": self.examples, "footprint": self.footprint}
        lists |= {"uncounted": list(self.uncounted)} if self.uncounted else {}
        return {**totals, "spike_rate": self.spike_rate, "energy_table": ENERGY_TABLE, **lists}

    @property
    def joules(self) -> float:
        """Energy of the arithmetic alone: 4.6 pJ a MAC and 0.9 pJ an AC (45 nm), no memory access."""
        return self.mac * MAC_JOULES + self.ac * AC_JOULES

    def __str__(self) -> str:
        rows: list[list[str | int]] = [[x.layer, round(x.ac), round(x.mac), f"{x.rate:.1%}"] for x in self.layers]
        foot = [
            f"{round(self.ac):,} AC, {round(self.mac):,} MAC an example, over {self.examples} examples",
            f"{self.joules * 1e6:.3g} uJ of arithmetic: {ENERGY_TABLE}; memory is not in it",
        ]
        if self.neurons:
            rates = ", ".join(f"{neuron.layer} {neuron.rate:.1%}" for neuron in self.neurons)
            foot.append(
                f"{round(self.membrane_updates):,} membrane updates, {self.spike_rate:.1%} with a spike: {rates}"
            )
            foot.append(f"{self.footprint:,} bytes of parameters and buffers")
        if self.uncounted:
            foot.append(f"not counted: matrix products of {', '.join(self.uncounted)}")
        return text_table(["layer", "AC", "MAC", "active inputs"], rows, title="synaptic operations", foot=foot)


def count_synops(model: nn.Module, data: Iterable[Any], example_inputs: Any = None, *, seed: int = 0) -> Synops:
    """Count the synaptic operations of a network on data, each batch from a fresh state; the model is left as it was.

    Convolutions (transposed ones too) and linear layers count, in every call, by the weights that they compute with.
    Products that no such layer makes (attention, recurrent layers) do not; the result names their layers.

    Args:
        model: any network; one without spikes has MACs alone, as many as it has inputs that are not zero.
        data: batches of inputs, or ``(inputs, target)``; of targets only their number is read. Inputs without targets
            are ``[N, ...]``, or ``[T, N, ...]`` where outputs show it (``structure.examples.example_axis``).
        example_inputs: name entries of mappings.
        seed: of what data draw.

    Raises:
        CriterionError: there are no data, or the model refuses a batch.
    """
    import torch
    from torch import Tensor

    from reconvene.criteria.batches import Batches, argument_names, samples_in
    from reconvene.criteria.gradients import explained
    from reconvene.criteria.preserve_state import untouched
    from reconvene.structure import call
    from reconvene.structure.examples import example_axis
    from reconvene.structure.fresh import begin_afresh
    from reconvene.structure.neurons import neurons
    from reconvene.structure.state import known_state
    from reconvene.utils.module_tree import device_of

    device = device_of(model)
    names = argument_names(model, example_inputs)
    batches = Batches(data, user="counting synaptic operations", device=device, seed=seed, names=names, labelled=False)
    counts: dict[str, LayerSynops] = {}
    rates = {name: NeuronRate(name) for name in neurons(model)}
    examples = axis = 0
    with untouched(model, seed=seed), torch.no_grad():
        for number, (inputs, target) in enumerate(batches):
            if number == 0:
                recording = _recorded(model, inputs)  # before the hooks that count, which it must not meet
                axis = example_axis(recording) or 0
            begin_afresh(model, inputs)
            with explained("counting synaptic operations", number), _counted(model, counts, rates):
                call(model, inputs)
            examples += samples_in(target) if isinstance(target, Tensor) else samples_in(inputs, axis=axis)
    for layer in counts.values():
        layer.ac, layer.mac = layer.ac / examples, layer.mac / examples
    for rate in rates.values():
        rate.spikes, rate.updates = rate.spikes / examples, rate.updates / examples
    states = {f"{state.module}.{state.name}".lstrip(".") for state in known_state(model)}
    held = [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if name not in states)]
    footprint = sum(tensor.numel() * tensor.element_size() for _, tensor in held)
    uncounted = _uncounted(recording, counts)
    return Synops(tuple(counts.values()), examples, tuple(rates.values()), footprint, uncounted)


def _recorded(model: nn.Module, inputs: Any) -> Recording:
    """The recorded pass on a batch, which finds the state of the model, too; empty where it cannot be recorded."""
    from reconvene.structure.capture import record_forward
    from reconvene.structure.recording import Recording

    with suppress(ReconveneError):
        return record_forward(model, inputs)
    return Recording()


def _uncounted(recording: Recording, counted: Collection[str]) -> tuple[str, ...]:
    """Layers with products that no convolution or linear layer makes, by their paths."""
    owners = dict.fromkeys(op.owner for op in recording.ops if op.operator in _PRODUCTS and not op.training)
    return tuple(owner or "the model itself" for owner in owners if owner not in counted)


@contextmanager
def _counted(model: nn.Module, counts: dict[str, LayerSynops], rates: dict[str, NeuronRate]) -> Iterator[None]:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    from reconvene.structure.neurons import spikes_in

    def fired(rate: NeuronRate, module: nn.Module, args: Any, output: Any) -> None:
        spikes = spikes_in(output)
        rate.spikes += float((spikes != 0).sum())
        rate.updates += spikes.numel()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, (_ConvNd, nn.Linear)):
                stack.callback(module.register_forward_pre_hook(partial(_count, name, counts), with_kwargs=True).remove)
            if name in rates:
                stack.callback(module.register_forward_hook(partial(fired, rates[name])).remove)
        yield


def _count(
    name: str, counts: dict[str, LayerSynops], module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> None:
    signal = (args[0] if args else kwargs["input"]).detach()
    active = (signal != 0).to(signal.dtype)
    operations = _operations(module, signal, active)
    layer = counts.setdefault(name, LayerSynops(name))
    if bool(((signal == 0) | (signal.abs() == 1)).all()):
        layer.ac += operations
    else:
        layer.mac += operations
    layer.active += float(active.sum())
    layer.inputs += signal.numel()


def _operations(module: nn.Module, signal: Tensor, active: Tensor) -> float:
    """Of one call: by the weights that the functions of convolutions and linear layers get, whatever made them.

    A subclass that calls none of these (``x @ self.weight.T``) counts by ones in the place of its parameters. The
    forward pass is that of the class: an instance's own may be bound to another layer.
    """
    from reconvene.costs.products_met import ProductsMet

    forward = type(module).forward
    with ProductsMet() as met:
        forward(module, signal)
    return met.total if met.calls else float(forward(_with_ones(module), active).double().sum())


def _with_ones(module: nn.Module) -> nn.Module:
    """The layer with ones for its parameters that are not zero, and zeros for a bias.

    The weight that it computes with may be no parameter: a parametrisation, a mask or an old-style norm makes it.
    """
    import torch
    from torch.nn.utils.parametrize import type_before_parametrizations

    kind = type_before_parametrizations(module)
    plain: nn.Module = object.__new__(kind)
    plain.__dict__.update(vars(module))
    weight: Any = module.weight
    plain.__dict__.pop("weight", None)
    held: dict[str, Any] = {"bias": None, **module._parameters, "weight": weight}
    plain.__dict__["_parameters"] = {
        name: value if value is None else torch.zeros_like(value) if name == "bias" else (value != 0).to(value.dtype)
        for name, value in held.items()
    }
    return plain


class SynapticOperations(Cost):
    """Synaptic operations, AC and MAC together, of one example of the data.

    Predicted from the dense network's rates: a channel that stays is taken for the mean channel of its layer, and to
    spike as often as before. ``count_synops`` of the small network tells what came out.
    """

    name, label, plural, less = "synops", "Synaptic operations", "synaptic operations", "fewer"
    unit = COUNT
    meaning = "Synaptic operations of one example of the data, of a spiking network: 3x, 100k."
    condition = "predicted from the rates of the dense network"
    listed = False
    needs_data = True
    mac_weight, ac_weight = 1.0, 1.0

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The prediction. Raises BudgetError without data."""
        from reconvene.costs.macs import products
        from reconvene.costs.sizes import Products, sizes_of

        if network is None or network.data is None:
            raise BudgetError(f"a budget on {self.name} is about data: pass data=, batches of inputs", {})
        counted = count_synops(network.model, network.data, network.example_inputs)
        by_layer = {layer.layer: layer for layer in counted.layers}
        calls = [(op.owner, dims) for op, dims in products(structure) if op.owner in by_layer]
        sizes = sizes_of(structure)
        dense = [Products(sizes, [dims], [1.0], 0).at(sizes.at(structure.widths)) for _, dims in calls]
        totals: dict[str, float] = {}
        for (owner, _), macs in zip(calls, dense, strict=True):
            totals[owner] = totals.get(owner, 0.0) + macs
        weights = [
            (by_layer[owner].mac * self.mac_weight + by_layer[owner].ac * self.ac_weight) / totals[owner]
            for owner, _ in calls
        ]
        everything = Products(sizes, [dims for _, dims in calls], weights, 0)
        return CostFunction(lambda widths: everything.at(sizes.at(widths)))


class SynapticEnergy(SynapticOperations):
    """Energy of the synaptic operations: 4.6 pJ a MAC and 0.9 pJ an AC (45 nm), arithmetic alone."""

    name, label, plural, less = "synop_energy", "Synaptic energy", "joules of synaptic operations", "less"
    unit = metric_unit("J", "joules")
    meaning = "Joules of synaptic operations (4.6 pJ a MAC, 0.9 pJ an AC), of one example of the data: 3x, 2uJ."
    mac_weight, ac_weight = MAC_JOULES, AC_JOULES
