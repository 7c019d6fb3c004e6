"""One time step of a network with state, as a function that takes the state and gives the next one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reconvene.deploy.model_io import in_inference, leaves, named_tensors
from reconvene.errors import ExportError
from reconvene.structure.capture import settle_state
from reconvene.structure.inputs import arguments, call
from reconvene.structure.state import StateItem, clear_state, known_state

FRESH, CARRIED = "fresh", "carried"
STATES = (FRESH, CARRIED)
"""What a file does with state: every call begins afresh; or the state is an input, and the next one an output."""
NEXT = "next"
"""Last part of the names of outputs that are the next state."""


def one_step(model: nn.Module, example_inputs: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module that computes one step, and its inputs: those of the model, then its state, which begins as zeros.

    A step is the model's own method ``step`` where it has one (a network that loops over time in ``forward``), else a
    call of the model. State is named by module and attribute, ``features.2.membrane``; the output with the next one
    ends in ``.next``.

    Raises ExportError: the model has no state, begins afresh in every call, or does not begin at zeros.
    """
    settle_state(model, example_inputs)
    states = known_state(model)
    if not states:
        raise ExportError(
            f"{type(model).__name__} has no state that a call leaves for the next: leave state='carried' out"
        )
    args, kwargs = arguments(example_inputs)
    names = _argument_names(model, args)
    inputs = {**dict(zip(names, args, strict=True)), **kwargs}
    with in_inference(model):
        clear_state(model)
        fresh = _first_tensors(call(_step_of(model), inputs))
        step = CarriedStep(model, states)
        zeros = {name: torch.zeros_like(tensor) for name, tensor in step.state_tensors()}
        first = call(step, {**inputs, **zeros})
        second = call(step, {**inputs, **{name: first[f"{name}.{NEXT}"] for name in zeros}})
    outputs = [value for name, value in first.items() if not name.endswith(f".{NEXT}")]
    if not all(torch.allclose(a, b, atol=1e-5) for a, b in zip(outputs, fresh, strict=True)):
        raise ExportError(
            f"the state of {type(model).__name__} does not begin at zeros, so a file cannot begin with them"
        )
    if all(torch.equal(first[f"{name}.{NEXT}"], second[f"{name}.{NEXT}"]) for name in zeros):
        raise ExportError(
            f"{type(model).__name__} begins afresh in every call, so a state has no effect. Give it a method step(), "
            "one time step, which forward calls"
        )
    return step, {**inputs, **zeros}


class CarriedStep(nn.Module):
    """``forward(inputs, state) -> {output, next state}``, both by name."""

    def __init__(self, model: nn.Module, states: Sequence[StateItem]) -> None:
        super().__init__()
        self.model, self.states = model, tuple(states)
        self.templates = [_store(model, state)[state.name] for state in states]
        self.training = model.training

    def state_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the model's state as it is now, by name."""
        for state in self.states:
            tensors = leaves(_store(self.model, state)[state.name])
            for position, tensor in enumerate(tensors):
                name = f"{state.module}.{state.name}".lstrip(".")
                yield (name if len(tensors) == 1 else f"{name}.{position}"), tensor

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """One step from the given state."""
        state = dict(inputs)
        for item, template in zip(self.states, self.templates, strict=True):
            prefix = f"{item.module}.{item.name}".lstrip(".")
            values, spec = pytree.tree_flatten(template)
            count = sum(isinstance(value, Tensor) for value in values)
            given = iter([state.pop(prefix if count == 1 else f"{prefix}.{i}") for i in range(count)])
            values = [next(given) if isinstance(value, Tensor) else value for value in values]
            _store(self.model, item)[item.name] = pytree.tree_unflatten(values, spec)
        outputs = named_tensors(_step_of(self.model)(**state), "output")
        return {**outputs, **{f"{name}.{NEXT}": tensor for name, tensor in self.state_tensors()}}


def _step_of(model: nn.Module) -> Callable[..., Any]:
    step = getattr(model, "step", None)
    return step if callable(step) else model


def _argument_names(model: nn.Module, args: tuple[Any, ...]) -> list[str]:
    step = _step_of(model)
    function = model.forward if step is model else step
    parameters = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return parameters[: len(args)]


def _store(model: nn.Module, state: StateItem) -> dict[str, Any]:
    """Where a piece of state lies."""
    module = model.get_submodule(state.module)
    return module._buffers if state.name in module._buffers else module.__dict__


def _first_tensors(outputs: Any) -> list[Tensor]:
    return list(named_tensors(outputs, "output").values())
