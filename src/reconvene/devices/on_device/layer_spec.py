"""A layer to time: what tells it from others, how wide it is timed, what it took.

Their JSON is what device profiles list under ``layers`` and what a bundle brings in ``jobs.json``. Imports nothing of
Reconvene, so that it can be copied to a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Point = tuple[int, int]
"""Channels in and out."""
Timing = tuple[int, int, float]
"""Channels in and out, and seconds."""

_CONVOLUTION = ("kind", "kernel", "stride", "pads", "dilation", "groups", "spatial", "batch", "tail", "is_first")
_FIELDS = {
    "conv": (*_CONVOLUTION, "spatial_out"),
    "depthwise": (*_CONVOLUTION, "spatial_out"),
    "conv_transpose": (*_CONVOLUTION, "spatial_out"),
    "linear": ("kind", "batch", "spatial", "groups", "tail"),
    "matmul": ("kind", "batch", "spatial", "vary", "groups"),
    "op": ("kernel", "stride", "pads", "kind", "operator", "batch", "spatial", "axis", "groups"),
}
"""By kind: the fields that its JSON has, in this order."""
_KEYS = {"operator": "op", "is_first": "first"}
"""What a field is called in JSON, where it is not called as here."""
_OPTIONAL = frozenset({"kernel", "stride", "pads", "spatial_out"})
"""Fields that JSON has only where there is something in them."""


@dataclass(frozen=True)
class LayerSpec:
    """What tells one layer from another, however wide they are. Equal ones are measured once, and one table tells both.

    Attributes:
        kind: ``conv``, ``depthwise``, ``conv_transpose``, ``linear``, ``matmul`` (of two activations) or ``op``.
        operator: which operator an ``op`` is: ``relu``, ``max_pool``.
        batch: samples, or rows of a linear layer.
        spatial: sizes of the input beside samples and channels; of a matmul ``(batch, rows, inner, columns)``.
        kernel, stride, dilation: of convolutions, and of poolings (which have no dilation); one number a dimension.
        pads: of the same: those before every dimension, then those behind.
        groups: of a convolution, 0 if depthwise: as many as there are channels.
        tail: what the runtime fuses behind the layer, in this order: ``add``, ``relu``.
        is_first: whether a convolution reads what the network is given, whose channels are never pruned.
        spatial_out: sizes of the output, where something is added to it.
        axis: where an operator has its channels: 1 or -1.
        vary: which size of a matmul widths decide: ``k`` (inner) or ``n`` (columns).

    Example:
        >>> spec = LayerSpec("linear", batch=2, tail=("relu",))
        >>> spec.to_dict()
        {'kind': 'linear', 'batch': 2, 'spatial': [], 'groups': 1, 'tail': ['relu']}
        >>> LayerSpec.from_dict(spec.to_dict()) == spec
        True
    """

    kind: str
    operator: str = ""
    batch: int = 1
    spatial: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    tail: tuple[str, ...] = ()
    is_first: bool = False
    spatial_out: tuple[int, ...] = ()
    axis: int = 1
    vary: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerSpec:
        """The layer of ``to_dict``; fields that ``values`` lacks are as by default, others are passed over."""
        present = {name: _KEYS.get(name, name) for name in _FIELDS[values["kind"]]}
        return cls(**{name: _frozen(values[key]) for name, key in present.items() if key in values})

    def to_dict(self) -> dict[str, Any]:
        """JSON types: the fields that this kind of layer has."""
        present = {name: getattr(self, name) for name in _FIELDS[self.kind]}
        return {
            _KEYS.get(name, name): list(value) if isinstance(value, tuple) else value
            for name, value in present.items()
            if value or name not in _OPTIONAL
        }

    @property
    def has_one_width(self) -> bool:
        """Whether one number of channels decides its time: that out follows that in, or there is none."""
        return self.kind in ("op", "matmul", "depthwise")


@dataclass(frozen=True)
class LayerJob:
    """A layer, and up to which widths it is timed."""

    spec: LayerSpec
    in_width: int
    out_width: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerJob:
        """The job of ``to_dict``."""
        return cls(LayerSpec.from_dict(values), values["in"], values["out"])

    def to_dict(self) -> dict[str, Any]:
        """JSON types: those of the layer, with ``in`` and ``out``."""
        return {**self.spec.to_dict(), "in": self.in_width, "out": self.out_width}


@dataclass(frozen=True)
class MeasuredLayer(LayerJob):
    """A job, with what it took.

    Attributes:
        points: seconds where the layer's weights are nearly alone in the caches.
        far: seconds more where other weights are read between two runs.
    """

    points: tuple[Timing, ...]
    far: tuple[Timing, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MeasuredLayer:
        """The layer of ``to_dict``."""
        job = LayerJob.from_dict(values)
        return cls(job.spec, job.in_width, job.out_width, _timings(values["points"]), _timings(values["far"]))

    def to_dict(self) -> dict[str, Any]:
        """JSON types: those of the job, with ``points`` and ``far``."""
        timings = {"points": [list(timing) for timing in self.points], "far": [list(timing) for timing in self.far]}
        return {**super().to_dict(), **timings}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _timings(values: Any) -> tuple[Timing, ...]:
    return tuple((into, out, seconds) for into, out, seconds in values)
