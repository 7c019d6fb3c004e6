"""One run of the silenced network on the dense model itself: no copy of the model is made.

Tensors of one dimension are swapped for noisy, silenced ones while the pass runs. A weight is silenced when a call
reads it, and few silenced weights are held at a time, so that a large model takes little more memory than it has.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reconvene.structure import tensors_in
from reconvene.structure.dispatch import DispatchMode
from reconvene.structure.inputs import call_on
from reconvene.structure.restore import kept_attributes, twins
from reconvene.structure.state import clear_state, kept_values, own_instances, state_buffers
from reconvene.surgery.ranges import from_text
from reconvene.surgery.silence import restricted
from reconvene.utils.module_state import afresh_in_eval

if TYPE_CHECKING:
    from reconvene.surgery.plan import Plan

HELD_BYTES = 64 << 20
"""Silenced weights are held up to so many bytes, since a loop reads the same few again and again."""


def run_silenced(plan: Plan, model: nn.Module, inputs: Any, noisy: dict[str, Tensor]) -> Any:
    """The output of the silenced network in eval mode; the model is as before afterwards.

    Args:
        plan: the plan whose removed channels are silenced.
        model: the dense model.
        inputs: its inputs, which the pass may write to.
        noisy: other values for parameters and buffers, dense, by name.
    """
    weights: dict[str, Tensor] = dict(model.named_parameters())
    replace = {name: zeroed(t, plan.slices.get(name, {})) if name in weights else t for name, t in noisy.items()}
    late = {name: tensor for name in plan.slices if (tensor := weights.get(name)) is not None and name not in noisy}
    replace |= {name: zeroed(tensor, plan.slices[name]) for name, tensor in late.items() if not _alone(tensor)}
    late = {name: tensor for name, tensor in late.items() if name not in replace}
    with kept_attributes(model), kept_values(model, buffers=False), own_instances(model):
        afresh_in_eval(model)
        skip = state_buffers(model)
        clear_state(model)
        with (
            twins(model, {}, {}, "real", replace, skip),
            _Silence(plan, late),
            restricted(model, plan.sites, tensors_in(inputs)),
        ):
            return call_on(model, inputs)


def _alone(weight: Tensor) -> bool:
    """Whether a weight fills its storage, so that its memory tells it from all others."""
    whole = weight.numel() and weight.nbytes == weight.untyped_storage().nbytes()
    return bool(whole) and torch.empty_like(weight, device="meta").stride() == weight.stride()


def zeroed(tensor: Tensor, slices: dict[int, str]) -> Tensor:
    """A copy in which everything but the kept positions is zero."""
    indices = {dim: torch.from_numpy(from_text(text)).to(tensor.device) for dim, text in slices.items()}
    out = tensor.detach()
    rows = indices.pop(0, None)
    if rows is not None:  # the rows that stay are copied, and only they need work in other dimensions
        out = out.index_select(0, rows)
    elif indices:
        out = out.clone()
    for dim, positions in indices.items():
        removed = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
        removed[positions] = False
        out.index_fill_(dim, removed.nonzero().squeeze(1), 0)
    return out if rows is None else torch.zeros_like(tensor).index_copy_(0, rows, out)


class _Silence(DispatchMode):  # type: ignore[no-untyped-call]
    """Gives every call the silenced weight in place of the dense one, which it knows by its memory."""

    def __init__(self, plan: Plan, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.plan = plan
        self.weights = {tensor.untyped_storage().data_ptr(): (name, tensor) for name, tensor in weights.items()}
        self.held: OrderedDict[int, Tensor] = OrderedDict()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*[self._given(a) for a in args], **{key: self._given(a) for key, a in (kwargs or {}).items()})

    def _given(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._given(item) for item in value] if any(isinstance(item, Tensor) for item in value) else value
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return value
        data = value.untyped_storage().data_ptr()
        if data not in self.weights:
            return value
        silenced = self._silenced(data)
        if value.shape == silenced.shape and value.stride() == silenced.stride():
            return silenced
        return silenced.as_strided(value.shape, value.stride(), value.storage_offset())

    def _silenced(self, data: int) -> Tensor:
        if data not in self.held:
            name, tensor = self.weights[data]
            while self.held and sum(t.nbytes for t in self.held.values()) + tensor.nbytes > HELD_BYTES:
                self.held.popitem(last=False)
            self.held[data] = zeroed(tensor, self.plan.slices[name])
        return self.held[data]
