"""The layers of a network as a runtime computes them: recorded calls with what it fuses, widths as functions.

A site is one layer as ``probe`` times it (kind, kernel, stride, spatial size, what follows directly) with the two
numbers that widths decide: how many channels go in and out. Batch norms behind a convolution are folded into it; an
activation or an addition directly behind a layer is fused with it; views cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from torch import Tensor

from reconvene.devices.on_device.layer_spec import LayerJob, LayerSpec
from reconvene.devices.operators import ACTIVATIONS, FREE, NORMS, OTHERS, POOLS, SIMILAR
from reconvene.structure import Structure
from reconvene.structure.inputs import tensors_in
from reconvene.structure.labels import Dim
from reconvene.structure.recording import Op
from reconvene.structure.rules.context import arg


@dataclass(frozen=True)
class WidthProduct:
    """A number that widths decide: the product of these dimensions times ``factor``."""

    dims: tuple[Dim, ...] = ()
    factor: float = 1.0


@dataclass(frozen=True)
class LayerSite:
    """One layer of one network. Sites of the same ``spec`` are measured once."""

    spec: LayerSpec
    owner: str
    into: WidthProduct
    out: WidthProduct
    dense: tuple[int, int]
    approximate: str = ""
    """The operator, where no probe measures it and another is taken for it."""


def sites(structure: Structure) -> list[LayerSite]:
    """What a runtime has to compute for one forward pass, in the order of the calls."""
    reader = CallReader(structure)
    for op in structure.eval_ops():
        reader.read(op)
    return reader.sites


def jobs(runtime_sites: Sequence[LayerSite]) -> list[LayerJob]:
    """One job for all sites of the same layer, as wide as the widest of them."""
    widest: dict[LayerSpec, tuple[int, int]] = {}
    for site in runtime_sites:
        into, out = widest.get(site.spec, (1, 1))
        widest[site.spec] = max(into, site.dense[0]), max(out, site.dense[1])
    return [LayerJob(spec, *widths) for spec, widths in widest.items()]


@dataclass
class _Value:
    """What a tensor holds at one moment: in-place calls make a new one."""

    site: int | None = None
    uses: int = 0
    is_input: bool = False


@dataclass
class CallReader:
    """Reads calls in order, and tells which layer each becomes, or is a part of."""

    structure: Structure
    sites: list[LayerSite] = field(default_factory=list)
    origins: dict[str, list[int]] = field(default_factory=dict)
    """By module: the layers (their place in ``sites``) that its calls became, or are fused with."""
    _values: dict[int, _Value] = field(default_factory=dict)
    _uses: list[int] = field(default_factory=list)
    _made: int = 0

    def __post_init__(self) -> None:
        self._uses = self._count_uses()
        for tensor in self.structure.recording.inputs:
            self._make(tensor).is_input = True

    def read(self, op: Op) -> None:
        """Take one call into account."""
        name = op.name.split(".")[1] if op.name.startswith("aten.") else op.name
        weights = self.structure.context.weights
        active = [t for t in tensors_in((op.args, op.kwargs)) if id(t) not in weights and id(t) in self._values]
        if not active:
            return
        site_number = self._behind(op, name, active)
        if site_number is None and name not in FREE:
            self._add(op, name, active)
            site_number = len(self.sites) - 1
        if site_number is not None and name not in FREE:
            self.origins.setdefault(op.owner, []).append(site_number)
        if name in FREE:
            site_number = self._values[id(active[0])].site if name != "select" else None
        is_input = name in FREE and self._values[id(active[0])].is_input
        for out in op.outs:
            if out is not None:
                value = self._make(out)
                value.site, value.is_input = site_number, is_input

    def _count_uses(self) -> list[int]:
        """How often every value is read, values numbered in the order they are made."""
        counts: list[int] = []
        current: dict[int, int] = {}

        def make(tensor: Tensor) -> None:
            current[id(tensor)] = len(counts)
            counts.append(0)

        weights = self.structure.context.weights
        for tensor in self.structure.recording.inputs:
            make(tensor)
        for op in self.structure.eval_ops():
            active = [t for t in tensors_in((op.args, op.kwargs)) if id(t) not in weights and id(t) in current]
            for tensor in active:
                counts[current[id(tensor)]] += 1
            if active:
                for out in op.outs:
                    if out is not None:
                        make(out)
        for tensor in self.structure.recording.outputs:
            if id(tensor) in current:
                counts[current[id(tensor)]] += 1
        return counts

    def _make(self, tensor: Tensor) -> _Value:
        value = self._values[id(tensor)] = _Value(uses=self._uses[self._made])
        self._made += 1
        return value

    def _behind(self, op: Op, name: str, active: list[Tensor]) -> int | None:
        """The site this call is fused with, if it is."""
        for tensor in sorted(active, key=lambda t: -(self._values[id(t)].site or 0)):
            value = self._values[id(tensor)]
            if value.site is None or value.uses != 1:
                continue
            site = self.sites[value.site]
            fused = _fused(site.spec, name, active, tensor)
            if fused is not None:
                self.sites[value.site] = replace(site, spec=fused)
                return value.site
        return None

    def _add(self, op: Op, name: str, active: list[Tensor]) -> None:
        make = _MAKERS.get(name, _operator)
        self.sites.append(make(self, op, name, active))

    def dims(self, tensor: Tensor) -> list[Dim]:
        """The labelled dimensions of a tensor."""
        return self.structure.context.dims(tensor)

    def is_input(self, tensor: Tensor) -> bool:
        """Whether the tensor is what the network is given."""
        return self._values[id(tensor)].is_input


def _fused(spec: LayerSpec, name: str, active: list[Tensor], result: Tensor) -> LayerSpec | None:
    """The layer whose ``result`` a call reads, with the call fused behind it; None where the runtime fuses it not."""
    if spec.kind not in ("conv", "depthwise", "conv_transpose", "linear"):
        return None
    if name in NORMS and not spec.tail and spec.kind != "linear":
        return spec  # folded into the weights
    if name in ACTIVATIONS and spec.tail in ((), ("add",)):
        return replace(spec, tail=(*spec.tail, ACTIVATIONS[name]))
    same = len(active) == 2 and active[0].shape == active[1].shape
    if name in ("add", "add_") and same and not spec.tail and spec.kind == "conv" and spec.groups == 1:
        return replace(spec, tail=("add",), spatial_out=tuple(result.shape[2:]))
    return None


def _convolution(reader: CallReader, op: Op, name: str, active: list[Tensor]) -> LayerSite:
    x, weight = op.args[0], op.args[1]
    rank = x.ndim - 2
    stride, padding, dilation = (_each(op.args[i], rank) for i in (3, 4, 5))
    transposed, groups = bool(arg(op, 6, "transposed", False)), int(arg(op, 8, "groups", 1))
    out = op.outs[0]
    assert out is not None
    in_channels, out_channels = reader.dims(x)[1], reader.dims(out)[1]
    depthwise = groups == x.shape[1] > 1 and not transposed
    spec = LayerSpec(
        "depthwise" if depthwise else "conv_transpose" if transposed else "conv",
        batch=x.shape[0],
        spatial=tuple(x.shape[2:]),
        kernel=tuple(weight.shape[2:]),
        stride=stride,
        pads=(*padding, *padding),
        dilation=dilation,
        groups=0 if depthwise else groups,
        is_first=reader.is_input(x),
    )
    into, outs, share = x.shape[1], out.shape[1], 1
    if groups > 1 and not depthwise:
        share = groups
        inner = reader.dims(weight)[0 if transposed else 1]
        if transposed:
            return LayerSite(
                spec,
                op.owner,
                WidthProduct((in_channels,), 1 / share),
                WidthProduct((out_channels,), 1 / share),
                (into // share, outs // share),
            )
        # What a group reads is a dimension of the weight; the groups themselves may become fewer.
        return LayerSite(
            spec,
            op.owner,
            WidthProduct((inner,)),
            WidthProduct((out_channels,), 1 / share),
            (into // share, outs // share),
        )
    return LayerSite(spec, op.owner, WidthProduct((in_channels,)), WidthProduct((out_channels,)), (into, outs))


def _linear(reader: CallReader, op: Op, name: str, active: list[Tensor]) -> LayerSite:
    operands = op.args[1:3] if name == "addmm" else op.args[:2]
    x, out = operands[0], op.outs[0]
    assert out is not None
    rows = prod(x.shape[:-1])
    spec = LayerSpec("linear", batch=rows)
    dims = WidthProduct((reader.dims(x)[-1],)), WidthProduct((reader.dims(out)[-1],))
    return LayerSite(spec, op.owner, *dims, (x.shape[-1], out.shape[-1]))


def _matmul(reader: CallReader, op: Op, name: str, active: list[Tensor]) -> LayerSite:
    a, b = (op.args[1], op.args[2]) if name == "baddbmm" else (op.args[0], op.args[1])
    if id(b) in reader.structure.context.weights:
        return _linear(reader, op, "addmm" if name == "baddbmm" else "mm", active)
    out = op.outs[0]
    assert out is not None
    batch, rows, inner, columns = prod(a.shape[:-2]), a.shape[-2], a.shape[-1], out.shape[-1]
    varies = "k" if any(labels is not None for _, labels in reader.dims(a)[-1]) else "n"
    width = inner if varies == "k" else columns
    work = (*reader.dims(out), reader.dims(a)[-1])
    factor = width / (batch * rows * inner * columns)
    spec = LayerSpec("matmul", spatial=(batch, rows, inner, columns), vary=varies)
    return LayerSite(spec, op.owner, WidthProduct(work, factor), WidthProduct(), (width, 1))


def _operator(reader: CallReader, op: Op, name: str, active: list[Tensor]) -> LayerSite:
    """Operators without weights: their time follows how many numbers they touch."""
    x = max(active, key=lambda t: t.numel())
    spec = _operator_spec(op, name, active, x)
    axis = 1 if x.ndim > 2 and spec.operator not in ("softmax", "layer_norm", "gelu") else -1
    width, spatial = x.shape[axis], tuple(s for i, s in enumerate(x.shape) if i not in (0, axis % x.ndim))
    spec = replace(spec, batch=x.shape[0], spatial=spatial, axis=axis)
    exact_operators = {*OTHERS, *POOLS, *ACTIVATIONS, *NORMS, "add", "add_", "mul", "mul_", "clone", "copy"} - SIMILAR
    elements = WidthProduct(tuple(reader.dims(x)), width / max(x.numel(), 1))
    return LayerSite(
        spec, op.owner, elements, WidthProduct(), (width, 1), approximate="" if name in exact_operators else name
    )


def _operator_spec(op: Op, name: str, active: list[Tensor], x: Tensor) -> LayerSpec:
    """What is measured for a call, before the sizes of its input ``x`` are filled in."""
    if name in POOLS and x.ndim == 4:
        kernel = _each(op.args[1], 2)
        stride = _each(arg(op, 2, "stride") or kernel, 2)
        padding = _each(arg(op, 3, "padding", 0), 2)
        return LayerSpec("op", POOLS[name], kernel=kernel, stride=stride, pads=(*padding, *padding))
    if name in ("mul", "mul_") and len(active) == 2 and x.ndim == 4 and min(t.numel() for t in active) < x.numel():
        return LayerSpec("op", "scale")
    if name in OTHERS:
        operator = OTHERS[name]
        return LayerSpec("op", "copy" if operator in ("global_pool", "resize") and x.ndim < 3 else operator)
    if name in ACTIVATIONS:
        return LayerSpec("op", ACTIVATIONS[name])
    return LayerSpec("op", "batch_norm" if name in NORMS else "copy" if name in ("clone", "copy") else "add")


def _each(value: Any, rank: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in (values * rank if len(values) == 1 else values))


_Maker = Callable[[CallReader, Op, str, list[Tensor]], LayerSite]
_MAKERS: dict[str, _Maker] = {
    "convolution": _convolution,
    "addmm": _linear,
    "mm": _linear,
    "linear": _linear,
    "bmm": _matmul,
    "baddbmm": _matmul,
    "matmul": _matmul,
}
