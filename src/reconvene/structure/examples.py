"""Which dimension of the inputs counts examples: the first, or the second behind time steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from reconvene.structure.recording import Recording


def example_axis(recording: Recording) -> int | None:
    """The dimension of the first input that counts examples; None where no output says so.

    - 0 for ``[N, ...]``: outputs are ``[N, ...]``, or ``[T, N, ...]`` where they are stacked over time.
    - 1 for ``[T, N, ...]``: outputs are ``[N, ...]``, or ``[T, N, ...]`` and the network reads ``x[t]``.
    - None for an image without a batch, one example that loses its dimension, or boxes of all images together.

    Inputs ``[T, N, ...]`` that a network reads as a whole and gives back as ``[T, N, ...]`` look like sequences
    ``[N, L, ...]``, and are taken for these. A network that loops over its batch (``for image in x``) and gives back
    ``[N, M, ...]`` for ``[N, M, ...]``, or reads its only example by ``x[0]``, looks like one that loops over time, and
    is taken for one.
    """
    given, result = (
        next((tensor for tensor in tensors if tensor.ndim), None) for tensors in (recording.inputs, recording.outputs)
    )
    if given is None or result is None:
        return None
    if given.ndim > 1 and given.shape[1] in result.shape[:2] and _is_read_by_steps(recording, given):
        return 1
    if given.shape[0] == result.shape[0] or (result.ndim > 2 and given.shape[0] == result.shape[1]):
        return 0
    if given.shape[0] == 1 or given.ndim < 3 or result.ndim < 2:  # one example may have lost its dimension
        return None
    return 1 if given.shape[1] == result.shape[0] else None


def _is_read_by_steps(recording: Recording, given: Tensor) -> bool:
    """Whether a network takes its input apart along the first dimension: ``x[t]``, or a loop over ``x``."""
    for op in recording.ops:
        if op.operator in ("select", "unbind") and op.args[0] is given:
            dim = op.args[1] if len(op.args) > 1 else 0
            return dim in (0, -given.ndim)
    return False
