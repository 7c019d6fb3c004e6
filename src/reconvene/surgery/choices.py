"""Choices that rounding decides.

Two boxes with equal scores come out of ``nms`` in the order that rounding gives them, and the small network rounds
otherwise than the silenced one. Everything after such a call differs, though both networks are right. So the small
network takes the choice of the silenced one wherever its own call would choose the same from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.recording import writes_in_place
from reconvene.structure.values import operator_name
from reconvene.structure.watch import ObservedCall, Results

_STEPS = frozenset({"aten::round", "aten::floor", "aten::ceil", "aten::trunc", "aten::sign", "aten::sgn"})
"""Operators whose results are floating-point numbers and yet jump."""

Kept = Callable[[Tensor | None, Tensor], Tensor]
"""From a recorded tensor and one of the silenced network to its positions that the small network has."""
Agree = Callable[[Tensor, Tensor], bool]
"""Whether a tensor of the small network equals one of the silenced network, but for rounding."""


@dataclass(frozen=True)
class _Choice:
    """A choice of the silenced network: what it chose from and what it chose, at kept positions."""

    arguments: list[Tensor]
    results: list[Tensor]


class Choices:
    """The choices of the silenced network, and those of them that the small network took over.

    Args:
        recorded: tensors that the recording has for a call, arguments and results, by the identity of the call.
        kept: cuts a tensor of the silenced network.
        agree: compares floating-point tensors.
    """

    def __init__(
        self, recorded: Callable[[str], tuple[list[Tensor], Sequence[Tensor | None]] | None], kept: Kept, agree: Agree
    ) -> None:
        self._recorded, self._kept, self._agree = recorded, kept, agree
        self._choices: dict[str, _Choice] = {}
        self.taken: list[str] = []
        """Identities of the calls in which the small network was given the choice of the silenced one."""

    def note(self, call: ObservedCall, outs: Results) -> None:
        """Remember a call of the silenced network, if it is a choice."""
        recorded = self._recorded(call.data)
        if recorded is None or not _chooses(call, outs):
            return
        arguments = tensors_in((call.args, dict(call.kwargs)))
        if len(arguments) == len(recorded[0]) and len(outs) == len(recorded[1]):
            self._choices[call.data] = _Choice(
                [self._kept(*pair).clone() for pair in zip(recorded[0], arguments, strict=True)],
                [self._kept(*pair) for pair in zip(recorded[1], outs, strict=True)],
            )

    def take(self, call: ObservedCall, outs: Results) -> Results | None:
        """What the silenced network chose, where the call of the small network chooses it from the same numbers."""
        choice = self._choices.get(call.data)
        if choice is None or self._same(outs, choice.results):
            return None
        arguments = (call.args, dict(call.kwargs))
        if not self._same(tensors_in(arguments), choice.arguments):
            return None
        given = iter(choice.arguments)
        args, kwargs = map_tensors(lambda _: next(given), arguments)
        if not self._same(tensors_in(call.func(*args, **kwargs)), choice.results):
            return None
        self.taken.append(call.data)
        return [result.clone() for result in choice.results]

    def _same(self, got: list[Tensor], want: list[Tensor]) -> bool:
        return len(got) == len(want) and all(
            a.shape == b.shape and (self._agree(a, b) if b.is_floating_point() else torch.equal(a, b))
            for a, b in zip(got, want, strict=True)
        )


def _chooses(call: ObservedCall, outs: Results) -> bool:
    """Whether a call turns floating-point numbers into others than such, or into steps; writes are no choices."""
    if writes_in_place(call.func) or not pytree.tree_any_only(Tensor, _is_float, (call.args, dict(call.kwargs))):
        return False
    return operator_name(call.func) in _STEPS or not all(map(_is_float, outs))


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point()
