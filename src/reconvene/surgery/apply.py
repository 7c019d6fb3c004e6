"""Surgery: the smaller network, and the silenced reference it must agree with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reconvene.errors import PlanError
from reconvene.structure.copies import copy_model, deep_copy, uncopied
from reconvene.structure.nesting import on_model
from reconvene.structure.restore import paused_collector
from reconvene.structure.state import clear_state, enter_instances, remember_state
from reconvene.surgery.history import note_plans, plans_of
from reconvene.surgery.ranges import from_text
from reconvene.surgery.silence import silence
from reconvene.utils.module_state import forget_tables
from reconvene.utils.module_tree import named_modules, set_attribute

if TYPE_CHECKING:
    from reconvene.surgery.plan import Plan


@on_model
def apply(plan: Plan, model: nn.Module, stand_ins: Mapping[int, nn.Parameter] = MappingProxyType({})) -> nn.Module:
    """A new module of the same classes with the kept slices (see ``Plan.apply``).

    ``stand_ins`` are given in place of parameters, by ``id``, and nothing is cut for them.
    """
    tensors = _checked(plan, model)
    # deepcopy takes a tensor from the memo wherever the old one stands, so ties and cached lists follow by themselves.
    memo: dict[int, Any] = {}
    for name, dims in plan.slices.items():
        old = tensors[name]
        if id(old) not in stand_ins:
            memo[id(old)] = _like(old, sliced(old, dims))
    memo.update(stand_ins)
    memo.update(uncopied(model))
    with paused_collector():
        small = deep_copy(model, memo)
    modules = dict(named_modules(small))
    for path, attribute, value in plan.attributes:
        set_attribute(modules[path] if path in modules else small.get_submodule(path), attribute, value)
    enter_instances(model, small)
    note_plans(small, (*plans_of(model), plan))  # for ``rc.save``
    return _afresh(plan, small)


@on_model
def mask(plan: Plan, model: nn.Module) -> nn.Module:
    """A copy in the original shapes with the removed channels silenced (see ``Plan.mask``)."""
    _checked(plan, model)
    return mask_in_place(plan, _afresh(plan, copy_model(model)))


def _afresh(plan: Plan, network: nn.Module) -> nn.Module:
    """The network with its state started afresh and without cached tables, as a newly built one has it."""
    forget_tables(network)
    remember_state(network, plan.state)
    clear_state(network)
    return network


def mask_in_place(plan: Plan, model: nn.Module) -> nn.Module:
    """The model itself with the removed channels silenced."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, dims in plan.slices.items():
            if name not in parameters:
                continue  # statistics of a silenced channel do not matter: its affine parameters are zero
            for dim, text in dims.items():
                removed = torch.ones(parameters[name].shape[dim], dtype=torch.bool)
                removed[torch.from_numpy(from_text(text))] = False
                index = removed.nonzero().squeeze(1).to(parameters[name].device)
                parameters[name].index_fill_(dim, index, 0)
    return silence(model, plan.sites)


def _checked(plan: Plan, model: nn.Module) -> dict[str, Tensor]:
    """All tensors of the model by name, which must be those the plan was made for."""
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= dict(model.named_buffers())
    missing = [name for name in plan.shapes if name not in tensors]
    modules = dict(named_modules(model))
    missing += [f"{state.module}.{state.name}" for state in plan.state if state.module not in modules]
    if missing:
        raise PlanError(
            f"the plan was made for a model with {missing[0]} (and {len(missing) - 1} more), "
            f"which {type(model).__name__} does not have. Apply it to a fresh copy of the model it was made for."
        )
    passing = _recomputed(model) - set(plan.slices)
    for name, shape in plan.shapes.items():
        if name not in passing and list(tensors[name].shape) != shape:
            raise PlanError(
                f"the plan was made for {name} of shape {tuple(shape)}, this model has {tuple(tensors[name].shape)}. "
                "Apply it to a fresh copy of the dense model, built with the same arguments."
            )
    return tensors


def sliced(tensor: Tensor, dims: dict[int, str]) -> Tensor:
    """A copy of the kept positions."""
    out = tensor.detach()
    for dim, text in dims.items():
        out = out.index_select(dim, torch.from_numpy(from_text(text)).to(tensor.device))
    return out.clone() if out.data_ptr() == tensor.data_ptr() else out


def cut_shape(tensor: Tensor, dims: dict[int, str]) -> list[int]:
    """The shape that ``sliced`` gives."""
    return [len(from_text(dims[dim])) if dim in dims else size for dim, size in enumerate(tensor.shape)]


def _like(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _recomputed(model: nn.Module) -> set[str]:
    """Buffers that no file holds: a model computes them, some anew for every size of input (tables of positions)."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in named_modules(model)
        for name in module._non_persistent_buffers_set
    }
