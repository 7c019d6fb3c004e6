"""Choices that rounding decides.

Two boxes with equal scores come out of ``nms`` in the order that rounding gives them, and the small network rounds
otherwise than the silenced one. Everything after such a call differs, though both networks are right. So the small
network takes the choice of the silenced one wherever its own call would choose the same from the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.recording import writes_in_place
from reconvene.structure.values import operator_name
from reconvene.structure.watch import ObservedCall, Results
from reconvene.surgery.call_comparison import CallComparison, agree

_STEPS = frozenset({"aten::round", "aten::floor", "aten::ceil", "aten::trunc", "aten::sign", "aten::sgn"})
"""Operators whose results are floating-point numbers and yet jump."""


@dataclass(frozen=True)
class _Choice:
    """A choice of the silenced network: what it chose from and what it chose, at kept positions."""

    arguments: list[Tensor]
    results: list[Tensor]


class Choices:
    """The choices of the silenced network, and those of them that the small network took over.

    Args:
        comparison: knows the recorded calls, and cuts tensors of the silenced network to what the small network has.
    """

    def __init__(self, comparison: CallComparison) -> None:
        self._comparison = comparison
        self._choices: dict[str, _Choice] = {}
        self.taken: list[str] = []
        """Identities of the calls in which the small network was given the choice of the silenced one."""

    def note(self, call: ObservedCall, outs: Results) -> None:
        """Remember a call of the silenced network, if it is a choice."""
        recorded, kept = self._comparison.recorded(call.data), self._comparison.kept_part
        if recorded is None or not _chooses(call, outs):
            return
        arguments = tensors_in((call.args, call.kwargs))
        if len(arguments) == len(recorded[0]) and len(outs) == len(recorded[1]):
            self._choices[call.data] = _Choice(
                [kept(*pair).clone() for pair in zip(recorded[0], arguments, strict=True)],
                [kept(*pair) for pair in zip(recorded[1], outs, strict=True)],
            )

    def take(self, call: ObservedCall, outs: Results) -> Results | None:
        """What the silenced network chose, where the call of the small network chooses it from the same numbers."""
        choice = self._choices.get(call.data)
        if choice is None or _same(outs, choice.results):
            return None
        arguments = (call.args, call.kwargs)
        if not _same(tensors_in(arguments), choice.arguments):
            return None
        given = iter(choice.arguments)
        args, kwargs = map_tensors(lambda _: next(given), arguments)
        if not _same(tensors_in(call.func(*args, **kwargs)), choice.results):
            return None
        self.taken.append(call.data)
        return [result.clone() for result in choice.results]


def _same(got: list[Tensor], want: list[Tensor]) -> bool:
    """Whether tensors are equal, those of floating-point numbers but for rounding."""
    return len(got) == len(want) and all(a.shape == b.shape and agree(a, b) for a, b in zip(got, want, strict=True))


def _chooses(call: ObservedCall, outs: Results) -> bool:
    """Whether a call turns floating-point numbers into others than such, or into steps; writes are no choices."""
    if writes_in_place(call.func) or not any(map(torch.is_floating_point, tensors_in((call.args, call.kwargs)))):
        return False
    return operator_name(call.func) in _STEPS or not all(map(torch.is_floating_point, outs))
