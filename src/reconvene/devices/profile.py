"""Device profiles: measured costs of layers on one device and runtime, as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reconvene.devices.lookup_table import LatencyTable
from reconvene.devices.measured_layers import (
    LayerEntry,
    Machine,
    MeasuredNetwork,
    MeasuredRuntime,
    Overhead,
    Prices,
    TimedTogether,
    WidthSteps,
)
from reconvene.devices.on_device.bench import NEAR_BYTES
from reconvene.devices.on_device.facts import describe_layer
from reconvene.devices.on_device.layer_spec import LayerJob, LayerSpec, MeasuredLayer
from reconvene.devices.on_device.probe import FORMAT, VERSION
from reconvene.errors import DeviceError
from reconvene.utils import invalid_values, schema
from reconvene.utils.arrays import Floats
from reconvene.utils.files import read_regular
from reconvene.utils.schema import Count, NonNegative, Number, Text
from reconvene.utils.tables import Cell, text_table

RUNTIME = "onnxruntime"
_FILE_LIMIT = 2**27
"""Bytes of the largest profile that is read; that of fifty networks has a few millions."""
_REMEDY = "Measure the device again"


@schema.closed
@dataclass(frozen=True, eq=False)
class Profile:
    """What layers cost on one device.

    Attributes:
        device: processor, architecture, cores.
        runtime: name, version, threads.
        precision: ``fp32`` or ``int8``.
        noise: how much slower than at its best the device was while the most disturbed tenth of layers was measured.
        steps: widths between which time does not change.
        overhead: seconds a call (``call``) and each operator (``node``) cost beside the operators' own.
        memory: what a byte of weights costs more beside so many bytes of others: ``[bytes, seconds a byte]``.
        far_bytes: beside how many bytes of weights the ``far`` points were measured.
        layers: what was measured of every layer.
        name: what to call the device.
        whole: where no networks were timed, layers at once in one graph: ``seconds``, what was measured of each
            ``near`` and ``far``, ``weights``.
        pace: seconds of a small graph at the device's best, by which to tell when it is disturbed; 0 if not known.
        networks: whole networks: ``seconds``, and ``layers`` ``(number in layers, in, out)`` in the order of the calls.
    """

    device: Machine
    runtime: MeasuredRuntime
    precision: Literal["fp32", "int8"]
    noise: Number
    steps: WidthSteps
    overhead: Overhead
    memory: Prices
    far_bytes: Count
    layers: list[LayerEntry]
    date: Text
    seconds: NonNegative
    name: Text = ""
    format: Text = FORMAT
    version: Count = VERSION
    pace: NonNegative = 0.0
    whole: list[TimedTogether] = field(default_factory=list)
    networks: list[MeasuredNetwork] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile. Raises DeviceError when it is missing, damaged, or of another version."""
        text = read_regular(Path(path), limit=_FILE_LIMIT, error=DeviceError, what="the device profile")
        return cls._read(text, path)

    @classmethod
    def from_dict(cls, values: Any) -> Profile:
        """The profile of ``to_dict``. Raises DeviceError."""
        return cls._read(schema.to_json(values, source="the device profile", error=DeviceError))

    @classmethod
    def _read(cls, text: str | bytes, path: str | Path | None = None) -> Profile:
        named = "the device profile" if path is None else f"the device profile {path}"
        values = schema.parse_json(text, source=named, error=DeviceError, remedy=_REMEDY)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise DeviceError(
                f"{'the mapping' if path is None else path} is not a device profile. "
                f"Measure one: reconvene device profile -o {path or 'PROFILE.json'}"
            )
        if values.get("version") != VERSION:
            version = invalid_values.shown(values.get("version"))
            raise DeviceError(f"{named} has version {version}, this release reads {VERSION}. {_REMEDY}")
        runtime = values.get("runtime")
        if isinstance(runtime, dict) and runtime.get("name", RUNTIME) != RUNTIME:
            raise DeviceError(
                f"{named} was measured in {str(runtime['name'])[:60]}, and latency is predicted and timed in "
                f"{RUNTIME}. Measure the device with it: reconvene device profile --bundle probe.pyz"
            )
        schema.read_json(cls, text, source=named, error=DeviceError, remedy=_REMEDY)
        layers = [MeasuredLayer.from_dict(layer) for layer in values["layers"]]
        profile = cls(**{**values, "layers": layers})  # as it is written: a cached profile is written again
        if trouble := profile._mismatch():
            raise DeviceError(f"{named}: {trouble}. {_REMEDY}")
        return profile

    def _mismatch(self) -> str | None:
        """What of the parts does not fit the others, in words; None where all of them do."""
        points = [seconds for layer in self.layers for *_, seconds in layer.points]
        if points and max(points) <= 0:
            return "layers: none of them takes any time"
        for number, network in enumerate(self.networks):
            if max(layer for layer, _, _ in network["layers"]) >= len(self.layers):
                return f"networks.{number}.layers: some of them are not there"
        part = ""
        try:
            for number, layer in enumerate(self.layers):
                part = f"layers.{number}.points"
                LatencyTable.of(layer, self.steps)
            part = "whole"
            self.together()
        except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
            return f"{part}: they do not fit each other: {type(error).__name__} {error}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**vars(self), "layers": [layer.to_dict() for layer in self.layers]}

    def to_json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @property
    def conditions(self) -> str:
        """Where and with what it was measured, in one line."""
        threads = f"{self.runtime['threads']} thread" + ("s" if self.runtime["threads"] > 1 else "")
        machine = f"{self.device['processor']} ({self.device['architecture']})"
        return f"{machine}, {self.runtime['name']} {self.runtime['version']}, {threads}, {self.precision}"

    def __str__(self) -> str:
        rows: list[list[Cell]] = [
            [describe_layer(layer), len(layer.points), max(p[2] for p in layer.points) * 1e3] for layer in self.layers
        ]
        steps = f"steps of {self.steps['out']} out and {self.steps['in']} in"
        if self.steps["align"] > 1:
            steps += f", slower where in is no multiple of {self.steps['align']}"
        foot = [steps, f"noise {self.noise:.1%}, measured in {self.seconds:.0f} s", f"{self.conditions}, {self.date}"]
        return text_table(["layer", "points", "widest ms"], rows, foot=foot, title=self.name)

    def matches(self, conditions: Mapping[str, Any]) -> bool:
        """Whether these conditions (of ``probe``) are those it was measured under."""
        return all(getattr(self, key) == conditions[key] for key in ("device", "runtime", "precision"))

    def far_share(self) -> tuple[Floats, Floats]:
        """How much of ``far`` a layer pays beside so many bytes of weights: bytes and shares, both ascending."""
        sizes, price = np.array(self.memory, dtype=np.float64).T
        cached_price, uncached_price = (
            float(np.interp(weights, sizes, price)) for weights in (NEAR_BYTES, self.far_bytes)
        )
        return sizes, np.clip((price - cached_price) / max(uncached_price - cached_price, 1e-15), 0.0, 1.0)

    def together(self) -> float:
        """What layers take in one graph over what each takes by itself: the median of ``whole``, 1 without it."""
        sizes, shares = self.far_share()
        ratios = [
            entry["seconds"] / (entry["near"] + float(np.interp(entry["weights"], sizes, shares)) * entry["far"])
            for entry in self.whole
        ]
        return float(np.median(ratios)) if ratios else 1.0

    def tables(self, jobs: Sequence[LayerJob]) -> dict[LayerSpec, LatencyTable]:
        """A table for the layer of every job: its own, or made of those of other spatial sizes.

        Raises DeviceError naming what was not measured.
        """
        layer_by_spec = {layer.spec: layer for layer in self.layers}
        return {
            job.spec: LatencyTable.of(layer_by_spec[job.spec], self.steps)
            if job.spec in layer_by_spec
            else self._alike(job)
            for job in jobs
        }

    def _alike(self, job: LayerJob) -> LatencyTable:
        """Of layers that differ in spatial size or in what is fused only: seconds per position, between two sizes."""
        alike = [layer for layer in self.layers if _family(layer.spec) == _family(job.spec)]
        if not alike:
            raise DeviceError(
                f"the profile of {self.name or self.device['processor']} has no "
                f"{describe_layer(job)}, nor one of another "
                f"size. Measure the device for this model: reconvene device profile MODEL "
                f"--precision {self.precision} -o PROFILE.json"
            )
        positions = _positions(job.spec)
        # Of layers of one size, one with the same tail comes last and is taken.
        same_tail_last = sorted(alike, key=lambda layer: layer.spec.tail == job.spec.tail)
        by_size = {_positions(layer.spec): layer for layer in same_tail_last}
        sizes = sorted(by_size)
        above = next((size for size in sizes if size >= positions), sizes[-1])
        below = next((size for size in reversed(sizes) if size <= positions), sizes[0])
        upper, lower = (LatencyTable.of(by_size[size], self.steps) for size in (above, below))
        share = 0.0 if above == below else (np.log(positions) - np.log(below)) / (np.log(above) - np.log(below))

        def scaled(into: int, out: int) -> float:
            low, high = lower.seconds(into, out) / below, upper.seconds(into, out) / above
            return float(positions * np.exp((1 - share) * np.log(low) + share * np.log(high)))

        base = by_size[above] if upper.values.size >= lower.values.size else by_size[below]
        points = tuple((into, out, scaled(into, out)) for into, out, _ in base.points)
        return LatencyTable.of(replace(base, points=points), self.steps)  # weights are the same bytes at any size


def _family(spec: LayerSpec) -> LayerSpec:
    """The layer without its spatial size, and without what follows from that or is fused with it."""
    return replace(spec, batch=1, spatial=(), spatial_out=(), pads=(), tail=(), axis=1, vary="")


def _positions(spec: LayerSpec) -> int:
    if spec.kind == "matmul":
        batch, rows, inner, columns = spec.spatial
        return batch * rows * (columns if spec.vary == "k" else inner)
    return spec.batch * prod(spec.spatial)
