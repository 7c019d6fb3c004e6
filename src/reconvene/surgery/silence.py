"""The silenced reference: the dense network with the removed channels carrying nothing.

Removed channels are silenced by zeroing every parameter slice they touch, producers and consumers alike. That is
exact wherever channels only meet through weights. A call whose value depends on *how many* channels there are (layer
and group norm, a mean over channels, a product of two activations) is computed on the kept channels only, and its
result is put back in place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.errors import PlanError
from reconvene.structure import Keep, Structure
from reconvene.structure.dispatch import DispatchMode
from reconvene.structure.identity import Identities, first_names, of_calls
from reconvene.structure.inputs import tensors_in
from reconvene.structure.labels import Dim
from reconvene.structure.patches import canonical_calls
from reconvene.structure.pruned_sizes import kept_size
from reconvene.structure.recording import writes_in_place
from reconvene.structure.restore import module_stack
from reconvene.structure.scalar_args import RESULT, Numbers
from reconvene.structure.values import COPIES
from reconvene.structure.watch import Observe, ObservedCall, notify_observer
from reconvene.surgery.ranges import Ranges, from_text, to_text
from reconvene.utils import schema
from reconvene.utils.module_state import forget_tables
from reconvene.utils.schema import Count, Name, Plain, Text

KeptDim = list[tuple[Count, Ranges | None]]
"""Factors of one dimension, outermost first: ``(size, kept ranges or None)``."""


@schema.closed
@dataclass
class SilencedCall:
    """One call to compute on kept channels only: ``layer`` calls the operator ``call`` on ``data`` (``Identities``).

    Plans of earlier releases say instead that it is the ``nth`` call of ``call`` by ``layer``.
    """

    layer: Name
    call: Name
    args: list[list[KeptDim] | None]
    outs: list[list[KeptDim] | None]
    sizes: dict[str, Plain]
    data: Text = ""
    nth: Count | None = None


def restricted_sites(structure: Structure, keep: Keep, scalars: Mapping[int, Numbers]) -> list[SilencedCall]:
    """The calls that the silenced reference must restrict under this choice of channels.

    A number that the code computes from a size (``x / x.shape[1]``) is a statistic over channels too: the reference
    takes the smaller model's, and where the call works point by point, it works on kept channels.
    """
    mask = structure.kept_atoms(keep)
    context = structure.context
    restricted = dict(context.restricted)
    sites: list[SilencedCall] = []
    if not restricted and not scalars:
        return sites
    for index, (op, data) in enumerate(zip(structure.eval_ops(), of_calls(structure.recording), strict=True)):
        if (index not in restricted and index not in scalars) or op.func in COPIES:
            continue
        restrict = index in restricted or torch.Tag.pointwise in op.func.tags
        args = [_kept_dims(context.dims(a), mask) if restrict and isinstance(a, Tensor) else None for a in op.args]
        outs = [_kept_dims(context.dims(o), mask) if restrict and o is not None else None for o in op.outs]
        if any(arg is not None for arg in args) or index in scalars:
            sizes: dict[str, Any] = {str(k): _size(value, mask) for k, value in restricted.get(index, {}).items()}
            sizes |= scalars.get(index, {})
            sites.append(SilencedCall(op.owner, op.name, args, outs, sizes, data))
    return sites


def _size(value: Dim | list[Dim], mask: NDArray[np.bool_]) -> int | list[int]:
    return [kept_size(dim, mask) for dim in value] if isinstance(value, list) else kept_size(value, mask)


def _kept_dims(dims: list[Dim], mask: NDArray[np.bool_]) -> list[KeptDim] | None:
    """Kept positions of every dimension; ``None`` when all of them stay."""
    if all(labels is None or mask[labels].all() for dim in dims for _, labels in dim):
        return None
    return [
        # What is kept whole gets no text: where it is a number of boxes, other weights find another number.
        [
            (size, None if labels is None or mask[labels].all() else to_text(np.flatnonzero(mask[labels])))
            for size, labels in dim
        ]
        for dim in dims
    ]


@contextmanager
def observed(network: nn.Module, observe: Observe) -> Iterator[None]:
    """Show an observer every result of a silenced network, in dense shapes."""
    object.__setattr__(network, "reconvene_observe", observe)
    try:
        yield
    finally:
        object.__delattr__(network, "reconvene_observe")


class Silenced:
    """Mixed into the class of the silenced network: runs the forward pass under the restriction of its sites."""

    reconvene_sites: list[SilencedCall]
    reconvene_observe: Observe | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The dense forward pass, with the restricted calls computed on kept channels."""
        assert isinstance(self, nn.Module)
        forget_tables(self)  # a call that reads a table of an earlier pass would not be known
        with restricted(self, self.reconvene_sites, tensors_in((args, kwargs)), self.reconvene_observe):
            return super().forward(*args, **kwargs)  # type: ignore[misc]


@contextmanager
def restricted(
    model: nn.Module, sites: Sequence[SilencedCall], inputs: Sequence[Tensor], observe: Observe | None = None
) -> Iterator[None]:
    """Compute the calls of ``sites`` on kept channels while ``model``, already zeroed, runs on ``inputs``.

    Raises PlanError where a site is never met.
    """
    if not sites:
        yield
        return
    identities = Identities(first_names(model), inputs)
    with (
        module_stack(model, identities.leave) as layers,
        canonical_calls(),
        _Restrict(sites, layers, identities, observe) as restrict,
    ):
        yield
    restrict.check()


def silence(model: nn.Module, sites: Sequence[SilencedCall]) -> nn.Module:
    """Let ``model`` (already zeroed) run its restricted calls on kept channels only."""
    if sites:
        model_class = type(model)
        model.__class__ = type(
            f"Silenced{model_class.__name__}", (Silenced, model_class), {"__module__": model_class.__module__}
        )
        model.reconvene_sites = list(sites)  # type: ignore[assignment]
    return model


class _Restrict(DispatchMode):  # type: ignore[no-untyped-call]
    def __init__(
        self, sites: Sequence[SilencedCall], stack: list[str], identities: Identities, observe: Observe | None = None
    ) -> None:
        super().__init__()
        self.sites = {_key(site): site for site in sites}
        self.missed = dict(self.sites)
        self.stack, self.identities, self.observe = stack, identities, observe
        self.counts: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        data = self.identities.before(self.stack[-1], func, args, kwargs)
        result = self._result(func, args, kwargs, None if func in COPIES else self._site(data, func))
        if self.observe is not None:
            result = notify_observer(self.observe, ObservedCall(data, func, args, kwargs), result)
        self.identities.after(data, func, tensors_in(result))
        return result

    def _site(self, data: str, func: Any) -> SilencedCall | None:
        call_key = (self.stack[-1], str(func))
        key: Any = data if data in self.sites else (*call_key, self.counts[call_key])
        self.counts[call_key] += 1
        self.missed.pop(key, None)
        return self.sites.get(key)

    def _result(self, func: Any, args: Any, kwargs: Any, site: SilencedCall | None) -> Any:
        if site is None:
            return func(*args, **kwargs)
        if RESULT in site.sizes:
            return site.sizes[RESULT]
        small = [_take(a, k) for a, k in zip(args, [*site.args, *[None] * len(args)], strict=False)]
        result = func(*small, **kwargs) if not site.sizes else _call_with(func, small, kwargs, site.sizes)
        results = (result,) if isinstance(result, Tensor) else tuple(result)
        back = [_put(r, k) for r, k in zip(results, site.outs, strict=True)]
        if writes_in_place(func):  # the small copy was changed, and code reads on from the tensor it wrote to
            return args[0].copy_(back[0])
        return back[0] if isinstance(result, Tensor) else tuple(back)

    def check(self) -> None:
        """Raise PlanError where the pass missed a site: the silenced reference is incomplete then."""
        for site in self.missed.values():
            raise PlanError(
                f"the silenced reference never met {site.call} in {site.layer or 'the model'}; was the model changed?"
            )


def _key(site: SilencedCall) -> Any:
    return site.data or (site.layer, site.call, site.nth)


def _call_with(func: Any, args: list[Any], kwargs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Any:
    """The call with these numbers, by position or by name, in place of its own."""
    named = {key: value for key, value in numbers.items() if not key.isdigit()}
    placed = {int(key): value for key, value in numbers.items() if key.isdigit()}
    missing = range(len(args), max(placed, default=-1) + 1)
    args = [*args, *(func._schema.arguments[position].default_value for position in missing)]
    for position, value in placed.items():
        old = args[position]
        args[position] = old.new_tensor(value) if isinstance(old, Tensor) else value
    return func(*args, **{**kwargs, **named})


def _positions(factors: KeptDim, actual: int) -> NDArray[np.int64]:
    """Kept positions of a dimension; a batch of another size changes its first fixed factor."""
    if all(text is not None for _, text in factors):
        factors = [(1, None), *factors]  # a batch of one left no factor
    sizes = [size for size, _ in factors]
    if prod(sizes) != actual:
        free = next(i for i, (_, text) in enumerate(factors) if text is None)
        sizes[free] = actual // (prod(sizes) // sizes[free])
    flags = np.ones(1, dtype=np.bool_)
    for size, (_, text) in zip(sizes, factors, strict=True):
        factor_flags = np.ones(size, dtype=np.bool_)
        if text is not None:
            factor_flags[:] = False
            factor_flags[from_text(text)] = True
        flags = np.logical_and.outer(flags, factor_flags).reshape(-1)
    return np.flatnonzero(flags)


def _take(value: Any, dims: list[KeptDim] | None) -> Any:
    if dims is None or not isinstance(value, Tensor):
        return value
    for dim, factors in enumerate(dims):
        if any(text is not None for _, text in factors):
            index = torch.from_numpy(_positions(factors, value.shape[dim])).to(value.device)
            value = value.index_select(dim, index)
    return value


def _put(value: Any, dims: list[KeptDim] | None) -> Any:
    """Back into the dense shape, zero where channels were removed."""
    if dims is None or not isinstance(value, Tensor):
        return value
    for dim, factors in enumerate(dims):
        if any(text is not None for _, text in factors):
            inner = prod(size for size, _ in factors)
            counts = prod(size if text is None else len(from_text(text)) for size, text in factors)
            full = inner * value.shape[dim] // max(counts, 1)
            index = torch.from_numpy(_positions(factors, full)).to(value.device)
            shape = [*value.shape[:dim], full, *value.shape[dim + 1 :]]
            value = value.new_zeros(shape).index_copy(dim, index, value)
    return value
