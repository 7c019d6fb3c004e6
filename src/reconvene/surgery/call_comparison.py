"""Results of the silenced and the small network, call by call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reconvene.structure import Keep, Structure
from reconvene.structure.identity import of_calls
from reconvene.structure.inputs import tensors_in
from reconvene.structure.pruned_sizes import kept_positions
from reconvene.structure.watch import ObservedCall, Results
from reconvene.utils.notes import Note

TOLERANCE = 1e-5
"""Largest relative difference: float32 stays below it but for long sums, which float64 settles."""


class CallComparison:
    """Compares the results of the silenced network, at kept positions, with the results of the small network."""

    def __init__(self, structure: Structure, keep: Keep) -> None:
        self.structure, self.kept, self.ops = structure, structure.kept_atoms(keep), structure.eval_ops()
        self.calls = {data: number for number, data in enumerate(of_calls(structure.recording))}
        self.results: dict[str, Results] = {}
        """Results of the small network by the identity of the call."""
        self.differs: int | None = None

    def see(self, seen: ObservedCall, outs: Results) -> None:
        """Compare one call, until one differs."""
        number = self.calls.get(seen.data)
        if self.differs is not None or number is None or seen.data not in self.results:
            return
        for recorded, silenced, actual in zip(self.ops[number].outs, outs, self.results[seen.data], strict=False):
            if recorded is None or not silenced.is_floating_point():
                continue
            silenced = self.kept_part(recorded, silenced)
            if silenced.shape != actual.shape or not agree(actual, silenced):
                self.differs = number
                return

    def first_missing(self) -> int:
        """The number of the first call that differs, or that a network which broke off does not come to."""
        if self.differs is not None:
            return self.differs
        completed_calls = [number for data, number in self.calls.items() if data in self.results]
        return min(max(completed_calls, default=-1) + 1, len(self.calls) - 1)

    def recorded(self, data: str) -> tuple[list[Tensor], Sequence[Tensor | None]] | None:
        """Arguments and results that the recording has for a call."""
        number = self.calls.get(data)
        if number is None:
            return None
        op = self.ops[number]
        return tensors_in((op.args, op.kwargs)), op.outs

    def kept_part(self, recorded: Tensor | None, tensor: Tensor) -> Tensor:
        """The positions of a tensor of the silenced network that the small network has."""
        if recorded is None:
            return tensor
        for axis, dim in enumerate(self.structure.context.dims(recorded)):
            positions = kept_positions(dim, self.kept)
            if recorded.shape[axis] == tensor.shape[axis] and len(positions) != tensor.shape[axis]:
                tensor = tensor.index_select(axis, torch.from_numpy(positions).to(tensor.device))
        return tensor

    def choices_note(self, taken: Sequence[str]) -> Note:
        """A note that names the calls in which rounding decided."""
        sites = list(dict.fromkeys(self.ops[self.calls[data]].site for data in taken))
        names = ", ".join([*sites[:3], *(["..."] if len(sites) > 3 else [])])
        text = f"rounding decides what is chosen ({names}): both networks were compared with the same choice there"
        return Note(text, "choice")


def agree(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal, those of floating-point numbers but for rounding."""
    return relative_error(actual, expected) <= TOLERANCE


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value; values that are not finite agree where they are the same."""
    if not expected.is_floating_point() and not expected.is_complex():
        return 0.0 if torch.equal(actual, expected) else float("inf")
    if not expected.numel():
        return 0.0
    both = torch.isfinite(actual) & torch.isfinite(expected)
    alike = both | (actual == expected) | (actual.isnan() & expected.isnan())
    if not bool(alike.all()):
        return float("inf")
    scale = float(expected[both].abs().max()) if both.any() else 0.0
    worst = float((actual - expected)[both].abs().max()) if both.any() else 0.0
    return worst / (scale or 1.0)
