"""How many bits each output channel of each layer has: the half of a plan that is not about widths."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from reconvene.surgery.ranges import Ranges, from_text, to_text
from reconvene.utils import schema
from reconvene.utils.arrays import Ints
from reconvene.utils.schema import Count, Name, Text

_LARGEST = 8


def _complete(channels: dict[int, str]) -> dict[int, str]:
    """Raise ValueError where a channel has no bits, or twice."""
    positions = [from_text(text) for text in channels.values()]
    together = np.sort(np.concatenate([*positions, np.array([], dtype=np.int64)]))
    if not (together == np.arange(len(together))).all():
        raise ValueError("does not give every channel its bits once")
    if not all(1 <= bits <= _LARGEST for bits in channels):
        raise ValueError(f"holds bits beyond 1 to {_LARGEST}")
    return channels


def _few(inputs: dict[str, int]) -> dict[str, int]:
    """Raise ValueError for bits that no activation has."""
    for layer, bits in inputs.items():
        if not 1 <= bits <= _LARGEST:
            raise ValueError(f"lets {layer} read {bits} bits, and there are 1 to {_LARGEST}")
    return inputs


@schema.closed
@dataclass(frozen=True)
class LayerBits:
    """Bits of one weight of the small network: output channels (as ranges) along ``axis``, by their bits."""

    axis: Count
    channels: Annotated[dict[Count, Ranges], AfterValidator(_complete)]

    @classmethod
    def of(cls, axis: int, bits: Ints) -> LayerBits:
        """From bits of every channel, int64 ``[channels]``."""
        return cls(axis, {int(width): to_text(np.flatnonzero(bits == width)) for width in np.unique(bits)})

    @property
    def bits(self) -> Ints:
        """Bits of every channel, int64 ``[channels]``."""
        positions = {width: from_text(text) for width, text in self.channels.items()}
        bits = np.zeros(sum(map(len, positions.values())), dtype=np.int64)
        for width, channels in positions.items():
            bits[channels] = width
        return bits

    @property
    def counts(self) -> tuple[tuple[int, int], ...]:
        """How many channels have so many bits: pairs ``(bits, channels)``, ascending."""
        return tuple((width, len(from_text(self.channels[width]))) for width in sorted(self.channels))


@schema.closed
@dataclass(frozen=True)
class TrainedRanges:
    """Ranges of activations that a network was trained with, by the layer that reads them: scale and zero point.

    ``weights`` is a digest of the network's state: for other weights the ranges do not hold.
    """

    steps: dict[Name, tuple[Annotated[float, Field(gt=0, le=1e300)], Count]]
    weights: Text


@schema.closed
@dataclass(frozen=True)
class BitPlan:
    """Bits of the weights of a small network, by the name of the weight; what is not named stays float32.

    Channels of zero bits are in no layer: they left with their group. ``activations``: bits of activations, but for
    what the layers in ``inputs`` read, by the name of the layer; ``trained``: the ranges of these, where the small
    network was trained with its bits.
    """

    layers: dict[Name, LayerBits]
    activations: Count = 8
    inputs: Annotated[dict[Name, Count], AfterValidator(_few)] = field(default_factory=dict)
    trained: TrainedRanges | None = None

    @property
    def by_weight(self) -> dict[str, tuple[int, Ints]]:
        """Dimension and bits by the name of the weight, as the quantiser takes them."""
        return {name: (layer.axis, layer.bits) for name, layer in self.layers.items()}

    @property
    def summary(self) -> str:
        """How many output channels have so many bits, in a line."""
        totals: dict[int, int] = {}
        for layer in self.layers.values():
            for width, channels in layer.counts:
                totals[width] = totals.get(width, 0) + channels
        parts = [f"{totals[width]:,} of {width}" for width in sorted(totals)]
        fewer = [f"{list(self.inputs.values()).count(b)} layers read {b}" for b in sorted(set(self.inputs.values()))]
        read = ", ".join([f"activations of {self.activations}", *fewer])
        return f"bits of output channels: {', '.join(parts)}; {read}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        for layer in values["layers"].values():
            layer["channels"] = {str(width): text for width, text in layer["channels"].items()}
        if self.trained is None:
            del values["trained"]  # as in plans of older releases
        else:
            values["trained"]["steps"] = {name: list(steps) for name, steps in self.trained.steps.items()}
        return values
