"""Find the state of a model: what a forward pass writes and the next one reads, and how each piece starts afresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice, product

from torch import nn

from reconvene.structure.recording import Recording
from reconvene.structure.state import (
    NUMBER,
    REPLACEMENTS,
    RESETS,
    Snapshot,
    StateItem,
    held_numbers,
    known_state,
    possible_state,
    remember_state,
    snapshot,
)

_MOST = 300
"""Combinations of ways that are tried for a model that does not run as it is; most fail at the first layer."""
Try = Callable[[Sequence[StateItem]], Recording | None]
"""Records the model with this state started afresh; ``None`` where it does not run so."""


def written_state(model: nn.Module, before: Snapshot, recording: Recording) -> list[StateItem]:
    """The attributes and buffers that hold other tensors than before, made from the inputs of the pass.

    What is made of parameters alone (a weight that a norm computes) or of sizes (a table) is no state: it is the same
    in every pass.
    """
    after = snapshot(model)
    changed = [key for key, held in after.items() if held != before.get(key)]
    if not changed:
        return []
    from_inputs = {id(tensor) for tensor in recording.inputs}
    for op in recording.ops:
        if any(id(tensor) in from_inputs for tensor in op.tensors):
            from_inputs.update(id(out) for out in op.outs if out is not None)
    return sorted(StateItem(*key) for key in changed if from_inputs & set(after[key]))


def find_state(model: nn.Module, written: Sequence[StateItem], trial: Try) -> None:
    """Try how every piece of written state starts afresh, and remember it for the model.

    Pieces of one name in modules of one class start alike. A way is taken if the model runs so and its outputs have
    their shapes. A piece for which there is no way keeps what it holds.
    """
    chosen = {(state.module, state.name): state for state in known_state(model)}
    reference = trial(tuple(chosen.values()))
    for same in _by_class(model, written).values():
        for ways in _ways(model, same):
            attempt = {**chosen, **{(state.module, state.name): state for state in ways}}
            recording = trial(list(attempt.values()))
            if recording is not None and (reference is None or _shapes(recording) == _shapes(reference)):
                chosen = attempt
                break
    names = {(state.module, state.name) for state in written}
    remember_state(model, [state for key, state in chosen.items() if key in names])


def _ways(model: nn.Module, same: Sequence[StateItem]) -> list[list[StateItem]]:
    """The same pieces of state with each way to start afresh, in the order in which they are tried.

    Where they hold numbers, what replaces tensors would change nothing, so a trial could not tell that it is wrong.
    """
    numbers = [held_numbers(model, state) for state in same]
    ways = [way for way in RESETS if way not in REPLACEMENTS or not any(numbers)]
    tried = [[replace(state, way=way) for state in same] for way in ways]
    if all(len(held) == 1 for held in numbers):
        tried.append([replace(s, way=NUMBER, number=min(held)) for s, held in zip(same, numbers, strict=True)])
    return tried


def runs_afresh(model: nn.Module, trial: Try) -> bool:
    """Whether a model that does not run does so afresh; it is then remembered as what starts in this way.

    What runs is known only where all of it does: ways are tried together, ``_MOST`` combinations of them.
    """
    classes = list(_by_class(model, possible_state(model)).values())
    for ways in islice(product([way for way in RESETS if way != "zeros"], repeat=len(classes)), _MOST):
        states = [StateItem(s.module, s.name, way) for same, way in zip(classes, ways, strict=True) for s in same]
        if trial(states) is not None:
            remember_state(model, states)
            return True
    return False


def _by_class(model: nn.Module, states: Sequence[StateItem]) -> dict[tuple[type, str], list[StateItem]]:
    """Pieces of state of one name in modules of one class."""
    by_class: dict[tuple[type, str], list[StateItem]] = {}
    for state in states:
        by_class.setdefault((type(model.get_submodule(state.module)), state.name), []).append(state)
    return by_class


def _shapes(recording: Recording) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in recording.outputs]
