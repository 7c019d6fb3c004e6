"""Criteria that read feature maps: what the channels of a trained network hold on data. Targets are not read.

The feature map of a channel is taken where the network last holds it, in the order of calls, as a map of two spatial
dimensions: behind norm, activation and residual sum, before it is averaged or flattened. Where there is no such tensor,
the positions that there are (of a sequence), and the examples of a batch, are its pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reconvene.criteria.batches import Batches, argument_names
from reconvene.criteria.channels.base import ChannelCriterion, ChannelScores, ChannelSubject
from reconvene.criteria.gradients import explained
from reconvene.criteria.preserve_state import untouched
from reconvene.errors import CriterionError
from reconvene.structure import Structure, call, tensors_in
from reconvene.structure.identity import of_calls
from reconvene.structure.patches import canonical_calls
from reconvene.structure.watch import ObservedCall, Results, watched
from reconvene.utils.arrays import Floats

_Score = Callable[[Tensor, NDArray[np.int64]], Floats]
"""From maps ``[N, C, H, W]`` and the positions of channels in C, ``[width, m]``, to a score for every channel."""
SPATIAL = 2


def hrank(subject: ChannelSubject) -> ChannelScores:
    """Mean rank of the channel's feature map ``[H, W]`` over examples (2002.10179)."""

    def ranks(maps: Tensor, positions: NDArray[np.int64]) -> Floats:
        tolerance = max(maps.shape[-2:]) * torch.finfo(maps.dtype).eps
        rank = torch.linalg.matrix_rank(maps.double(), rtol=tolerance).double().mean(dim=0).cpu().numpy()
        return np.asarray(rank[positions].mean(axis=1), dtype=np.float64)

    return _scored(subject, "hrank", ranks)


def chip(subject: ChannelSubject) -> ChannelScores:
    """Nuclear norm of the matrix channels x pixels less that without the channel, mean over examples (2110.13981).

    Channels are all those of the feature map's tensor. It takes one decomposition for every channel and example: some
    dozens of examples are enough, and many for wide layers.
    """

    def independence(maps: Tensor, positions: NDArray[np.int64]) -> Floats:
        matrices = maps.flatten(2).double()
        # Rows keep their singular values in the small triangle of a QR decomposition.
        rows = torch.linalg.qr(matrices.mT, mode="r").R.mT
        whole = torch.linalg.svdvals(rows).sum(dim=-1)
        lost = []
        for channel in positions:
            others = np.setdiff1d(np.arange(rows.shape[1]), channel)
            lost.append((whole - torch.linalg.svdvals(rows[:, others]).sum(dim=-1)).mean())
        return np.asarray(torch.stack(lost).cpu().numpy(), dtype=np.float64)

    return _scored(subject, "chip", independence)


@dataclass(frozen=True, eq=False)
class _Map:
    """Where a group's feature map is: a result of one call, the axis of its channels, and their positions there."""

    call: str
    output: int
    axis: int
    positions: NDArray[np.int64]

    def of(self, results: Results) -> Tensor:
        """The maps ``[N, C, H, W]`` among the results of the call."""
        tensor = results[self.output]
        channels_second = tensor.movedim(self.axis, 1)
        spatial = [size for size in channels_second.shape[2:] if size > 1]
        if len(spatial) < SPATIAL:  # examples are rows
            return channels_second.transpose(0, 1).reshape(1, channels_second.shape[1], len(tensor), -1)
        return channels_second.reshape(*channels_second.shape[:2], spatial[0], -1)


def _scored(subject: ChannelSubject, criterion: str, score: _Score) -> ChannelScores:
    places = _feature_maps(subject.structure, criterion)
    user = f"criterion {criterion!r}"
    names = argument_names(subject.model, subject.example_inputs)
    data = Batches(subject.data, user=user, device=subject.device, seed=subject.seed, names=names, labelled=False)
    totals = [np.zeros(group.width) for group in subject.structure.prunable]
    counts = [0] * len(totals)
    calls = frozenset(place.call for place in places)
    with untouched(subject.model, seed=subject.seed), torch.no_grad(), canonical_calls():
        for number, (inputs, _) in enumerate(data):
            with explained(user, number):
                seen = _results(subject, inputs, calls)
            for g, place in enumerate(places):
                if place.call not in seen:
                    raise CriterionError(
                        f"{user}: on batch {number} of the data the model makes other calls than on its example "
                        "inputs. Give example inputs that are like the data"
                    )
                maps = place.of(seen[place.call])
                totals[g] += score(maps, place.positions) * len(maps)
                counts[g] += len(maps)
    means = [total / count for total, count in zip(totals, counts, strict=True)]
    return ChannelScores(means, data=data.describe())


def _results(subject: ChannelSubject, inputs: Any, calls: frozenset[str]) -> dict[str, Results]:
    """The results of the wanted calls, by the identity of the call."""
    results: dict[str, Results] = {}

    def keep(seen: ObservedCall, outs: Results) -> None:
        results.setdefault(seen.data, outs)

    with watched(subject.model, inputs, keep, wanted=calls):
        call(subject.model, inputs)
    return results


def _feature_maps(structure: Structure, criterion: str) -> list[_Map]:
    """Where the feature map of every prunable group is."""
    best: dict[int, tuple[int, _Map]] = {}
    computed = {id(tensor) for tensor in structure.recording.inputs}
    for op, key in zip(structure.eval_ops(), of_calls(structure.recording), strict=True):
        if not any(id(tensor) in computed for tensor in tensors_in((op.args, op.kwargs))):
            continue  # weights, looked at from another side
        for number, out in enumerate(op.outs):
            if out is None:
                continue
            computed.add(id(out))
            for axis, positions in _channel_axes(structure, out):
                spatial = sum(size > 1 for place, size in enumerate(out.shape) if place not in (0, axis))
                for g, at in positions.items():
                    if g not in best or min(spatial, SPATIAL) >= best[g][0]:
                        best[g] = min(spatial, SPATIAL), _Map(key, number, axis, at)
    missing = [group.name for g, group in enumerate(structure.prunable) if g not in best]
    if missing:
        raise CriterionError(
            f"criterion {criterion!r}: no call gives the channels of {missing[0]} a dimension of a tensor, so they "
            "have no feature map. Keep them whole, or use criterion='taylor' or 'group_l2'"
        )
    return [best[g][1] for g in range(len(structure.prunable))]


def _channel_axes(structure: Structure, tensor: Tensor) -> list[tuple[int, dict[int, NDArray[np.int64]]]]:
    """Axes behind the first that hold all channels of some groups: the positions ``[width, m]`` of each group."""
    axes = []
    for axis, dim in enumerate(structure.context.dims(tensor)):
        if axis == 0 or len(dim) != 1 or dim[0][1] is None:
            continue
        group, channel = structure.atom_group[dim[0][1]], structure.atom_channel[dim[0][1]]
        whole: dict[int, NDArray[np.int64]] = {}
        for g in np.unique(group[group >= 0]).tolist():
            at = np.flatnonzero(group == g)
            width = structure.prunable[g].width
            if len(at) % width == 0 and len(np.unique(channel[at])) == width:
                whole[g] = at[np.argsort(channel[at], kind="stable")].reshape(width, -1)
        axes.append((axis, whole))
    return axes


FEATURE_MAP_CRITERIA = (
    ChannelCriterion("hrank", hrank, needs="data"),
    ChannelCriterion("chip", chip, needs="data"),
)
