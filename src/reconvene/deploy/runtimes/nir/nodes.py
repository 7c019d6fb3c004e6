"""The nodes of a step graph as NIR has them: norms folded, parameters of neurons from their dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.deploy.runtimes.base import imported
from reconvene.deploy.runtimes.nir.graph import INPUT, Node, StepGraph, node_names
from reconvene.errors import ExportError
from reconvene.structure.dynamics import Dynamics, dynamics_of

if TYPE_CHECKING:
    Array = NDArray[np.float32]

DT = 1e-4
"""Seconds that a time step lasts, by which decays become time constants; that of snnTorch's import."""


def nir_graph(model: nn.Module, step: StepGraph, readouts: list[tuple[str, tuple[int, ...]]]) -> Any:
    """The ``nir.NIRGraph`` of a step. ``readouts``: nodes that outputs are made of, with shapes."""
    nir = imported("nir", "spiking", "NIR export")
    tensors = {name: value.detach().cpu() for name, value in (*model.named_parameters(), *model.named_buffers())}
    names = node_names(step)
    nodes: dict[str, Any] = {names[INPUT]: nir.Input({"input": np.array(step.input_shape)})}
    edges: list[tuple[str, str]] = []
    for name, node in step.nodes.items():
        if "/" in name:
            raise ExportError(f"a node of a NIR graph cannot be called {name!r}. Rename the module")
        nodes[names[name]] = _node(nir, name, node, tensors, model)
        edges += [(names[source], names[name]) for source in node.sources]
        feedback = _feedback(nir, name, node, model) if node.kind == "neuron" else None
        if feedback is not None:
            back = f"{names[name]}.recurrent"
            nodes[back] = feedback
            edges += [(names[name], back), (back, names[name])]
    for position, (name, shape) in enumerate(readouts):
        output = "output" if position == 0 else f"output_{position}"
        nodes[output] = nir.Output({"output": np.array(shape)})
        edges.append((names[name], output))
    try:
        return nir.NIRGraph(nodes, edges, metadata={})
    except (ValueError, AssertionError, IndexError) as error:
        raise ExportError(f"NIR does not take the graph of {type(model).__name__}: {error}") from error


def _node(nir: Any, name: str, node: Node, tensors: dict[str, Tensor], model: nn.Module) -> Any:
    if node.kind == "neuron":
        return _neuron(nir, name, node, model.get_submodule(name))
    if node.kind in ("convolution", "linear"):
        weight, bias = _folded(node, tensors)
        if node.kind == "linear":
            return _linear(nir, weight, bias)
        return _convolution(nir, name, node.before, weight, bias, node.options)
    if node.kind == "flatten":
        return nir.Flatten({"input": np.array(node.before)}, start_dim=0, end_dim=-1)
    if node.kind == "any":
        return nir.Threshold(np.full(node.shape, 0.5, np.float32))
    pooling = nir.AvgPool2d if node.kind == "average" else nir.SumPool2d
    return pooling(**{key: np.array(value) for key, value in node.options.items()})


def _convolution(
    nir: Any, name: str, before: tuple[int, ...], weight: Array, bias: Array | None, options: Mapping[str, Any]
) -> Any:
    """A convolution over examples of the shape ``before``, ``[channels, *size]``.

    One with groups has zeros between them: ``nir`` takes the channels of one group for those of its input.
    """
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    weight = _without_groups(weight, options["groups"])
    steps = {key: options[key] for key in ("stride", "padding", "dilation")}
    if weight.ndim == 4:
        return nir.Conv2d(before[1:], weight, groups=1, bias=bias, **steps)
    if weight.ndim == 3:
        single = {key: value[0] for key, value in steps.items()}
        return nir.Conv1d(before[1], weight, groups=1, bias=bias, **single)
    raise ExportError(f"{name} is a convolution in {weight.ndim - 2} dimensions: NIR has those in one and two")


def _linear(nir: Any, weight: Array, bias: Array | None) -> Any:
    return nir.Linear(weight) if bias is None else nir.Affine(weight, bias)


def _parameters(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> tuple[Array, Array | None]:
    bias = None if layer.bias is None else _array(layer.bias.detach().cpu())
    return _array(layer.weight.detach().cpu()), bias


def _without_groups(weight: Array, groups: int) -> Array:
    """``[out, in / groups, *kernel]`` as ``[out, in, *kernel]``, with zeros where a channel does not read another."""
    rows, columns = len(weight) // groups, weight.shape[1]
    dense = np.zeros((len(weight), groups * columns, *weight.shape[2:]), np.float32)
    for group in range(groups):
        inside = slice(group * rows, (group + 1) * rows)
        dense[inside, group * columns : (group + 1) * columns] = weight[inside]
    return dense


def _feedback(nir: Any, name: str, node: Node, model: nn.Module) -> Any:
    """The node on the way from a neuron's spikes back into the neuron; None where it reads no spikes of its own."""
    dynamics = dynamics_of(model.get_submodule(name))
    recurrent = None if dynamics is None else dynamics.recurrent
    if recurrent is None:
        return None
    if isinstance(recurrent, nn.Linear):
        return _linear(nir, *_parameters(recurrent))
    if isinstance(recurrent, (nn.Conv1d, nn.Conv2d)) and not isinstance(recurrent.padding, str):
        options = {key: getattr(recurrent, key) for key in ("stride", "padding", "dilation", "groups")}
        return _convolution(nir, name, node.shape, *_parameters(recurrent), options)
    if isinstance(recurrent, nn.Module):
        raise ExportError(
            f"the spikes of {name} pass a {type(recurrent).__name__} on their way back: NIR has no node for it"
        )
    return nir.Scale(_full(recurrent, node.shape).astype(np.float32))


def _folded(node: Node, tensors: dict[str, Tensor]) -> tuple[Array, Array | None]:
    """Weight and bias with the norm behind the layer in them, computed in float64."""
    weight = tensors[node.options["weight"]].double()
    bias = None if node.options["bias"] is None else tensors[node.options["bias"]].double()
    if node.norm is not None:
        norm = {key: tensors[name].double() for key, name in node.norm.items() if isinstance(name, str)}
        scale = (norm["var"] + node.norm["eps"]).rsqrt() * norm.get("weight", torch.ones(()))
        bias = ((0.0 if bias is None else bias) - norm["mean"]) * scale + norm.get("bias", torch.zeros(()))
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return _array(weight), None if bias is None else _array(bias)


def _neuron(nir: Any, name: str, node: Node, module: nn.Module) -> Any:
    try:
        dynamics = dynamics_of(module)
    except ValueError as error:
        raise ExportError(f"{name} ({type(module).__name__}) cannot be a NIR neuron: {error}") from error
    if dynamics is None:
        raise ExportError(
            f"the dynamics of {name} ({type(module).__name__}) are not known. Known: Leaky, Synaptic and RLeaky of "
            "snnTorch, IFNode, LIFNode and ParametricLIFNode of SpikingJelly, and those registered by "
            "neuron(..., dynamics=...)"
        )
    decay, gain, threshold = (_full(v, node.shape) for v in (dynamics.decay, dynamics.gain, dynamics.threshold))
    metadata = {"reset": dynamics.reset, "reset_delayed": int(dynamics.delayed), "dt": DT}
    common = {
        "v_threshold": _threshold(threshold, dynamics),
        "v_reset": np.full(node.shape, dynamics.reset_value, np.float32),
        "metadata": metadata,
    }
    synapse = None if dynamics.synapse is None else _full(dynamics.synapse, node.shape)
    if (decay == 1).all() and synapse is None:
        return nir.IF(r=gain / DT, **common)
    if (decay >= 1).any() or (decay < 0).any():
        raise ExportError(f"{name} has decays from {decay.min():.3g} to {decay.max():.3g}: a NIR neuron leaks, or not")
    common |= {"r": gain / (1 - decay), "v_leak": np.full(node.shape, dynamics.rest)}
    if synapse is None:
        return nir.LIF(tau=DT / (1 - decay), **common)
    if (synapse >= 1).any() or (synapse < 0).any():
        raise ExportError(f"{name} has currents that decay by {synapse.max():.3g}: those of a NIR neuron leak")
    return nir.CubaLIF(tau_syn=DT / (1 - synapse), tau_mem=DT / (1 - decay), w_in=1 / (1 - synapse), **common)


def _threshold(threshold: NDArray[np.float64], dynamics: Dynamics) -> Array:
    """NIR's neurons spike above their threshold: one that spikes at it has the next smaller number."""
    single = threshold.astype(np.float32)
    return np.nextafter(single, np.float32(-np.inf)) if dynamics.inclusive else single


def _full(value: Tensor | float, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A value for every neuron. float64: a time constant gives the decay back to the last bit of float32."""
    number = value.detach().cpu().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    return number.expand(shape).contiguous().numpy()


def _array(tensor: Tensor) -> Array:
    return tensor.float().contiguous().numpy()
