"""Which batch norms a file holds: those that no layer before them takes in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from reconvene.structure import Structure
    from reconvene.structure.recording import Op

_NORMS = frozenset({"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"})
_LAYERS = frozenset({"convolution", "addmm", "mm"})
_VECTORS = slice(1, 5)  # arguments of a norm: weight, bias, mean, variance


@dataclass(frozen=True)
class BatchNorm:
    """One call of a norm with fixed statistics.

    Attributes:
        mean: name of the buffer of the means.
        parameters: names of its weight and bias, where these are parameters.
        folded: whether the layer before it takes it in.
    """

    mean: str
    parameters: tuple[str, ...]
    folded: bool


def batch_norms(structure: Structure) -> list[BatchNorm]:
    """Every norm with statistics of its own, in the order of the calls; instance norms with such statistics as well.

    ONNX exports fold a norm whose input is the output of a convolution, of a linear layer on rows ``[batch, in]``, or
    of another folded norm, if nobody else reads that output.
    """
    ops = structure.eval_ops()
    names = {id(tensor): name for name, tensor in structure.recording.parameters.items()}
    readers = Counter(id(tensor) for op in ops for tensor in {id(t): t for t in op.tensors}.values())
    readers.update(id(tensor) for tensor in structure.recording.outputs)
    made_by: dict[int, Op] = {}
    folded: set[int] = set()
    found = []
    for op in ops:
        if op.operator in _NORMS:
            # Instance norms repeat their vectors for every sample, and view the batch as channels.
            vectors = [_before(vector, "repeat", made_by) for vector in op.args[_VECTORS]]
            is_instance = any(new is not old for new, old in zip(vectors, op.args[_VECTORS], strict=True))
            source = op.args[0]
            if is_instance and readers[id(source)] == 1:
                source = _before(source, "view", made_by)
            producer = made_by.get(id(source))
            takes_in = producer is not None and (producer.operator in _LAYERS or id(producer) in folded)
            if takes_in and readers[id(source)] == 1:
                folded.add(id(op))
            known = [names.get(id(vector), "") for vector in vectors]
            if known[2]:
                shapes = structure.shapes
                found.append(BatchNorm(known[2], tuple(n for n in known[:2] if n in shapes), id(op) in folded))
        made_by.update((id(out), op) for out in op.outs if out is not None)
    return found


def _before(value: Tensor | None, operator: str, made_by: dict[int, Op]) -> Tensor | None:
    """What this operator read to make a tensor; the tensor itself, where something else made it."""
    op = made_by.get(id(value))
    if op is None or op.operator != operator:
        return value
    source: Tensor = op.args[0]
    return source
