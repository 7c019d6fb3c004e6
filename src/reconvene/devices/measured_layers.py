"""What a device profile says of layers and networks, as its file holds it: jobs of ``probe`` with what they took."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from reconvene.devices.on_device.layer_spec import MeasuredLayer
from reconvene.utils.schema import LARGEST, Count, NonNegative, Number, Size, Text, described_by, with_more

_Sizes = Annotated[list[Count], Field(max_length=16)]
_Spatial = Annotated[list[Size], Field(max_length=16)]
Width = Annotated[int, Field(ge=0, le=2**30)]
_Point = tuple[Width, Width, NonNegative]
"""Channels in and out, and seconds."""
Tail = Annotated[list[Text], Field(max_length=16)]
_Step = Annotated[int, Field(ge=1, le=2**20)]
_Widest = TypedDict("_Widest", {"in": Width, "out": Width})


class _Layer(_Widest):
    batch: Size
    spatial: _Spatial
    groups: Count
    points: Annotated[list[_Point], Field(min_length=1)]
    far: list[tuple[Width, Width, Number]]


@with_more
class _Convolution(_Layer):
    kind: Literal["conv", "depthwise", "conv_transpose"]
    kernel: _Sizes
    stride: _Sizes
    dilation: _Sizes
    pads: NotRequired[_Sizes]
    tail: Tail
    first: NotRequired[bool]
    spatial_out: NotRequired[_Spatial]


@with_more
class _Linear(_Layer):
    kind: Literal["linear"]
    tail: Tail


@with_more
class _Product(_Layer):
    kind: Literal["matmul"]
    spatial: Annotated[list[Size], Field(min_length=4, max_length=4)]  # batch, rows, inner, columns
    vary: Literal["k", "n"]


@with_more
class _Operator(_Layer):
    kind: Literal["op"]
    op: Text
    kernel: NotRequired[_Sizes]
    stride: NotRequired[_Sizes]
    pads: NotRequired[_Sizes]
    axis: NotRequired[Literal[1, -1]]


@with_more
class _Machine(TypedDict):
    processor: Text
    architecture: Text


@with_more
class _Runtime(TypedDict):
    name: Text
    version: Text
    threads: _Step


_Steps = TypedDict("_Steps", {"in": _Step, "out": _Step, "align": _Step})


@with_more
class _Overhead(TypedDict):
    call: Number
    node: Number


@with_more
class _Together(TypedDict):
    seconds: NonNegative
    near: NonNegative
    far: Number
    weights: NonNegative


@with_more
class _Network(TypedDict):
    layers: Annotated[list[tuple[Count, Width, Width]], Field(min_length=1)]
    seconds: Annotated[float, Field(gt=0, le=LARGEST)]


_AnyLayer = Annotated[_Convolution | _Linear | _Product | _Operator, Field(discriminator="kind")]

Prices = Annotated[
    list[list[float]],
    described_by(Annotated[list[tuple[NonNegative, Number]], Field(min_length=1, max_length=10_000)]),
]
LayerEntry = Annotated[MeasuredLayer, described_by(_AnyLayer)]
MeasuredNetwork = Annotated[dict[str, Any], described_by(_Network)]
Machine = Annotated[dict[str, Any], described_by(_Machine)]
MeasuredRuntime = Annotated[dict[str, Any], described_by(_Runtime)]
WidthSteps = Annotated[dict[str, int], described_by(with_more(_Steps))]
Overhead = Annotated[dict[str, float], described_by(_Overhead)]
TimedTogether = Annotated[dict[str, float], described_by(_Together)]
