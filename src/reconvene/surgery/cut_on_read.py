"""A small network whose large weights are cut from the dense ones whenever they are read.

To run once beside the dense network it then takes the memory of one weight, where a copy takes that of all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from reconvene.surgery.apply import apply, cut_shape, sliced

if TYPE_CHECKING:
    from reconvene.surgery.plan import Plan

LARGE = 2**20
"""Elements from which a weight is cut when it is read; below, the time of a cut says more than its memory."""


def apply_on_read(plan: Plan, model: nn.Module, own: Collection[str]) -> nn.Module:
    """As ``plan.apply``, for forward passes that only read parameters as attributes of their modules.

    The parameters themselves (``named_parameters``) are zeros in place of large weights; ``own`` names parameters that
    are real whatever their size. The dense model must keep its values meanwhile.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}  # a shared one has its first name
    lists = {id(p) for module in model.modules() if isinstance(module, nn.RNNBase) for p in module.parameters()}
    places = [
        (path, key, parameter)
        for path, module in model.named_modules()
        for key, parameter in module._parameters.items()
        if parameter is not None and parameter.numel() >= LARGE and id(parameter) not in lists
        if names[id(parameter)] not in own
    ]
    stand_ins: dict[int, nn.Parameter] = {}
    cuts: dict[str, dict[str, Callable[[], Tensor]]] = {}
    for path, key, parameter in places:
        dims = plan.slices.get(names[id(parameter)], {})
        shape = cut_shape(parameter, dims)
        stand_ins[id(parameter)] = nn.Parameter(parameter.new_zeros(()).expand(shape), requires_grad=False)
        cuts.setdefault(path, {})[key] = partial(sliced, parameter, dims)
    small = apply(plan, model, stand_ins)
    for path, of_module in cuts.items():
        module = small.get_submodule(path)
        module.__dict__["_parameters"] = _CutOnRead(module._parameters, of_module)
    return small


class _CutOnRead(dict[str, "nn.Parameter | None"]):
    """Parameters of one module; some are cut anew for every reader, who alone keeps them."""

    def __init__(self, parameters: dict[str, nn.Parameter | None], cuts: dict[str, Callable[[], Tensor]]) -> None:
        super().__init__(parameters)
        self._cuts = cuts

    def __getitem__(self, name: str) -> nn.Parameter | None:
        cut = self._cuts.get(name)
        return super().__getitem__(name) if cut is None else nn.Parameter(cut(), requires_grad=False)
