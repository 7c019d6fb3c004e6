"""What a channel touches: rows that compute it, columns that read it, scales of norms; and sums over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from reconvene.criteria.weights import is_bias
from reconvene.structure import Group, Slot, Structure
from reconvene.structure.layer_weights import output_dims
from reconvene.structure.neurons import neuron_kind
from reconvene.utils.arrays import Floats
from reconvene.utils.norms import is_norm

Role = Literal["row", "column", "scale", "shift", "other"]
"""A row of a weight computes the channel, a column reads it; norms scale it, biases shift it."""
EVERYTHING: frozenset[Role] = frozenset({"row", "column", "scale", "shift", "other"})
GROUP: frozenset[Role] = EVERYTHING - {"shift"}
ROWS: frozenset[Role] = frozenset({"row"})
# Layers whose weight is [in, out, ...], where the recording does not show how it is used.
_INPUTS_FIRST = (_ConvTransposeNd, nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True, eq=False)
class Roles:
    """The part that every slot of a model's groups plays; slots of buffers play none."""

    parameters: Mapping[str, Tensor]
    owners: Mapping[str, nn.Module]
    outputs: Mapping[str, frozenset[int]]

    @classmethod
    def of(cls, model: nn.Module, structure: Structure) -> Roles:
        """Roles of one model's parameters of real numbers; ``structure`` is of this model, or of a copy."""
        parameters = {n: p.detach() for n, p in model.named_parameters() if p.is_floating_point()}
        owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in parameters}
        return cls(parameters, owners, output_dims(structure))

    def role(self, slot: Slot) -> Role | None:
        """The role of one slot; None of a buffer."""
        tensor = self.parameters.get(slot.parameter)
        if tensor is None:
            return None
        if is_bias(slot.parameter):
            return "shift"
        owner = self.owners[slot.parameter]
        if tensor.ndim < 2 or is_norm(owner) or neuron_kind(owner) is not None:
            return "scale" if is_norm(owner) else "other"
        outputs = self.outputs.get(slot.parameter)
        if slot.dim > 1 or outputs == frozenset():
            return "other"
        if outputs is not None:
            return "row" if slot.dim in outputs else "column"
        return "row" if (slot.dim == 0) != isinstance(owner, _INPUTS_FIRST) else "column"

    def slots(self, group: Group, roles: frozenset[Role]) -> list[Slot]:
        """The slots of a group that play one of these roles."""
        return [slot for slot in group.slots if self.role(slot) in roles]


def channel_sums(
    structure: Structure,
    slots: Callable[[Group], Sequence[Slot]],
    values: Mapping[str, Tensor],
) -> list[Floats]:
    """For every prunable group the sum of ``values`` over the elements that each channel touches, ``[width]``, float64.

    ``slots`` says which slots of a group count; an element that lies in several of them counts once.
    """
    profiles: dict[tuple[str, tuple[int, ...]], Floats] = {}

    def profile(name: str, *dims: int) -> Floats:
        if (name, dims) not in profiles:
            others = [dim for dim in range(values[name].ndim) if dim not in dims]
            value = values[name].detach().to(torch.float64)
            profiles[name, dims] = (value.sum(dim=others) if others else value).cpu().numpy()
        return profiles[name, dims]

    results = []
    for group in structure.prunable:
        total = np.zeros(group.width)
        by_parameter: dict[str, list[Slot]] = defaultdict(list)
        for slot in slots(group):
            total += profile(slot.parameter, slot.dim)[slot.index].sum(axis=1)
            by_parameter[slot.parameter].append(slot)
        for name, same in by_parameter.items():
            for first, second in combinations(sorted(same, key=lambda slot: slot.dim), 2):
                corner = profile(name, first.dim, second.dim)
                total -= corner[first.index[:, :, None], second.index[:, None, :]].sum(axis=(1, 2))
        results.append(total)
    return results
