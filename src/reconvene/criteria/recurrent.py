"""Recurrent layers as positive linear ones: two steps, the second of which reads the state that the first one makes.

All steps of a recurrence use the same weights on signals alike, and over a long one the flow would grow or fade as a
power of the length; two steps let it pass through every weight once. Gates are open, candidates linear, and the same is
done for every row, so packed sequences need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reconvene.criteria.arithmetic import positive_counterpart
from reconvene.criteria.scaled_tensor import marked_like

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _layer(cell: str) -> Callable[..., Any]:
    """The counterpart of ``torch._VF.lstm`` and its like, for padded and for packed input."""

    def run(data: Tensor, *args: Any) -> Any:
        packed = isinstance(args[0], Tensor) and args[0].ndim == 1  # then these are batch sizes, and no states
        state, weights = (args[1], args[2]) if packed else (args[0], args[1])
        has_biases, layers, _, _, both_ways = args[3:8] if packed else args[2:7]
        directions = 2 if both_ways else 1
        each = len(weights) // (layers * directions)
        finals, output = [], data
        for layer in range(layers):
            sides = []
            for side in range(directions):
                start = (layer * directions + side) * each
                sides.append(_steps(output, weights[start : start + each], cell, has_biases))
            finals += sides
            output = positive_counterpart(torch.cat, "cat", (sides, -1), {}) if both_ways else sides[0]
        return output, *_final_states(finals, state)

    return run


def _steps(rows: Tensor, weights: Sequence[Tensor], cell: str, has_biases: bool) -> Tensor:
    """Two steps of one layer on rows ``[..., features]``."""
    inner, between = weights[0], weights[1]
    project = weights[-1] if len(weights) == (5 if has_biases else 3) else None
    first = _candidate(_linear(rows, inner), cell)
    first = first if project is None else _linear(first, project)
    second = _candidate(_linear(first, between), cell)
    second = second if project is None else _linear(second, project)
    total: Tensor = positive_counterpart(torch.add, "add", (first, second), {})
    return total


def _candidate(gates: Tensor, cell: str) -> Tensor:
    """The mean of the inputs of the gates and the candidate: open gates pass the flow of their own weights on."""
    parts = gates.reshape(*gates.shape[:-1], GATES[cell], -1)
    mean: Tensor = marked_like(parts.mean(-2), gates)
    return mean


def _linear(rows: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = positive_counterpart(F.linear, "linear", (rows, weight), {})
    return product


def _final_states(finals: list[Tensor], state: Any) -> list[Tensor]:
    """One state per layer and direction in the shape of the first states: the mean over rows."""
    initial_states = list(state) if isinstance(state, (tuple, list)) else [state]
    stacked = []
    for shape in (tensor.shape for tensor in initial_states):
        rows = [marked_like(final.flatten(0, -2).mean(0)[: shape[-1]], final) for final in finals]
        rows = [marked_like(F.pad(row, (0, shape[-1] - row.shape[-1])).expand(shape[1:]), row) for row in rows]
        stacked.append(positive_counterpart(torch.stack, "stack", (rows,), {}))
    return stacked


RECURRENT: dict[Callable[..., Any], Callable[..., Any]] = {getattr(torch, cell): _layer(cell) for cell in GATES}
