"""What non-linear operations cost on a device, as its profile measured them: alone, or fused with the layer before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from reconvene import devices
from reconvene.devices import Profile
from reconvene.devices.latency_model import Clock
from reconvene.devices.on_device.layer_spec import LayerSpec
from reconvene.devices.operators import ACTIVATIONS
from reconvene.devices.runtime_layers import CallReader, LayerSite, WidthProduct
from reconvene.planning.target import DeviceLike, parameter_bytes, profile_in
from reconvene.structure import Structure
from reconvene.surgery.operations import OperationSite, forms

KEPT = "kept"
"""The choice to leave an operation as it is."""
_FUSED = frozenset(ACTIVATIONS.values())


@dataclass(frozen=True)
class _Term:
    """A layer that is timed, ``sign`` times, with its channels."""

    site: LayerSite
    sign: int = 1


def price_forms(
    model: nn.Module,
    structure: Structure,
    sites: Sequence[OperationSite],
    names: Mapping[str, Sequence[str]],
    *,
    device: DeviceLike | None,
    precision: str,
) -> dict[str, dict[str, float]]:
    """Seconds of one inference that each site takes with each form that ``names`` lists for its path, and as it is.

    A form takes its steps one after another; where the operation is fused with the layer before it, so is the first
    step of a form that the runtime fuses. On this machine layers are measured when they are first met, and kept.

    Raises DeviceError: the profile does not know a layer.
    """
    reader = CallReader(structure)
    for op in structure.eval_ops():
        reader.read(op)
    terms = {
        (site.path, name): [
            term for number in reader.origins.get(site.path, ()) for term in _terms(reader.sites[number], name)
        ]
        for site in sites
        for name in (KEPT, *names[site.path])
    }
    timed = [term.site for of_form in terms.values() for term in of_form]
    profile = _profile(model, timed, device, precision)
    seconds = iter(_seconds(profile, timed))
    prices: dict[str, dict[str, float]] = {site.path: {} for site in sites}
    for (path, name), of_form in terms.items():
        # A fused operation costs nothing, and what is measured as that may fall below it.
        prices[path][name] = max(sum(term.sign * next(seconds) for term in of_form), 0.0)
    return prices


def _terms(layer: LayerSite, form: str) -> Iterator[_Term]:
    """What is timed for a form in the place of the operation that a runtime layer is, or has fused behind it."""
    if layer.spec.kind == "op":
        if form == KEPT:
            yield _Term(layer)
        for step in () if form == KEPT else forms()[form].steps:
            yield _Term(_alone(replace(layer.spec, operator=step), layer))
        return
    bare = _alone(replace(layer.spec, tail=layer.spec.tail[:-1]), layer)
    if form == KEPT:
        yield from (_Term(layer), _Term(bare, -1))
        return
    first, *others = forms()[form].steps
    if first in _FUSED:
        yield from (_Term(_alone(replace(bare.spec, tail=(*bare.spec.tail, first)), layer)), _Term(bare, -1))
    else:
        others = [first, *others]
    for step in others:
        yield _Term(_behind(layer, step))


def _alone(spec: LayerSpec, layer: LayerSite) -> LayerSite:
    return LayerSite(spec, layer.owner, WidthProduct(), WidthProduct(), layer.dense)


def _behind(layer: LayerSite, step: str) -> LayerSite:
    """An operator on what a layer gives."""
    spec = layer.spec
    shape = _outputs(spec) if spec.kind != "linear" else ()
    width = layer.dense[1] * max(spec.groups, 1)
    operator = LayerSpec("op", step, batch=spec.batch, spatial=shape, axis=1 if shape else -1)
    return LayerSite(operator, layer.owner, WidthProduct(), WidthProduct(), (width, 1))


def _outputs(spec: LayerSpec) -> tuple[int, ...]:
    """Sizes of what a convolution gives."""
    rank = len(spec.spatial)
    sizes = zip(spec.spatial, spec.kernel, spec.stride, spec.pads[:rank], spec.dilation, strict=True)
    if spec.kind == "conv_transpose":
        return tuple(
            (size - 1) * stride - 2 * pad + reach * (kernel - 1) + 1 for size, kernel, stride, pad, reach in sizes
        )
    return tuple(
        (size + 2 * pad - reach * (kernel - 1) - 1) // stride + 1 for size, kernel, stride, pad, reach in sizes
    )


def _profile(model: nn.Module, timed: Sequence[LayerSite], device: DeviceLike | None, precision: str) -> Profile:
    if device is None or device == devices.HERE:
        return devices.here(devices.jobs(timed), far=parameter_bytes(model), precision=precision)
    return profile_in(device, precision)


def _seconds(profile: Profile, timed: Sequence[LayerSite]) -> list[float]:
    if not timed:
        return []
    clock = Clock(profile, [site.spec for site in timed], [site.dense for site in timed])
    into, out = np.array([site.dense for site in timed], dtype=np.int64).T
    # Each layer of its own costs this beside its work. A fit of noisy times may give less than nothing, and then forms
    # of many small steps would be free.
    node = max(profile.overhead["node"], 0.0)
    return [float(value) + node for value in clock.times(into, out)]
