"""A forward pass on real tensors, seen call by call: each call has the identity that the recording gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from reconvene.structure.dispatch import DispatchMode
from reconvene.structure.identity import Identities, first_names
from reconvene.structure.inputs import tensors_in
from reconvene.structure.restore import module_stack

Observe = Callable[[str, list[Tensor | None]], object]
"""Receives the identity of every call, and copies of its results."""


@contextmanager
def watched(model: nn.Module, inputs: Any, observe: Observe, *, wanted: frozenset[str] | None = None) -> Iterator[None]:
    """Within: ``observe`` sees the calls of one forward pass on ``inputs``; only the ``wanted`` ones, where given.

    The pass must run under ``canonical_calls``, as the recording did, and on the same input tensors.
    """
    identities = Identities(first_names(model), tensors_in(inputs))
    with module_stack(model, identities.leave) as layers, _Watch(identities, layers, observe, wanted):
        yield


class _Watch(DispatchMode):  # type: ignore[no-untyped-call]
    """Shows an observer the identity and the results of every call."""

    def __init__(
        self, identities: Identities, stack: list[str], observe: Observe, wanted: frozenset[str] | None
    ) -> None:
        super().__init__()
        self.identities, self.stack, self.observe, self.wanted = identities, stack, observe, wanted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        outs: list[Tensor | None] = list(tensors_in(out))
        data = self.identities.of(self.stack[-1], func, args, kwargs or {}, outs)
        if self.wanted is None or data in self.wanted:
            # Copies: a later call may write into the result.
            self.observe(data, [None if out is None else out.detach().clone() for out in outs])
        return out
