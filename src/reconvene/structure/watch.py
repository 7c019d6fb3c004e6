"""A forward pass on real tensors, seen call by call: each call has the identity that the recording gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reconvene.structure.dispatch import DispatchMode
from reconvene.structure.identity import Identities, first_names
from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.restore import module_stack

Results = list[Tensor]


@dataclass(frozen=True)
class ObservedCall:
    """One call of a pass: its identity, the operator, and the arguments, which a later call may write to."""

    data: str
    func: Any
    args: Any
    kwargs: dict[str, Any]


Observe = Callable[[ObservedCall, Results], Results | None]
"""Receives every call and copies of its results; what it returns, unless ``None``, takes the place of the results."""


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
        kwargs = kwargs or {}
        data = self.identities.before(self.stack[-1], func, args, kwargs)
        out = func(*args, **kwargs)
        if self.wanted is None or data in self.wanted:
            out = notify_observer(self.observe, ObservedCall(data, func, args, kwargs), out)
        self.identities.after(data, func, tensors_in(out))
        return out


def notify_observer(observe: Observe, call: ObservedCall, out: Any) -> Any:
    """The result of a call, or what the observer gives in its place."""
    copies: Results = [tensor.detach().clone() for tensor in tensors_in(out)]  # a later call may write into a result
    replaced = observe(call, copies)
    if replaced is None:
        return out
    tensors = iter(replaced)
    return map_tensors(lambda _: next(tensors), out)
