"""Device profiles: measured costs of layers on one device and runtime, as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from reconvene.devices.bench import NEAR_BYTES
from reconvene.devices.facts import describe
from reconvene.devices.lookup_table import Floats, Table
from reconvene.devices.probe import FORMAT, VERSION
from reconvene.devices.runtime_layers import key_of
from reconvene.errors import DeviceError
from reconvene.utils.tables import table

RUNTIME = "onnxruntime"


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
        layers: jobs with their ``points``: ``(in, out, seconds)`` where weights are cached, and ``far``: ``(in, out,
            seconds more)`` where they are not.
        name: what to call the device.
        whole: where no networks were timed, layers at once in one graph: ``seconds``, what was measured of each
            ``near`` and ``far``, ``weights``.
        pace: seconds of a small graph at the device's best, by which to tell when it is disturbed; 0 if not known.
        networks: whole networks: ``seconds``, and ``layers`` ``(number in layers, in, out)`` in the order of the calls.
    """

    device: dict[str, Any]
    runtime: dict[str, Any]
    precision: str
    noise: float
    steps: dict[str, int]
    overhead: dict[str, float]
    memory: list[list[float]]
    far_bytes: int
    layers: list[dict[str, Any]]
    date: str
    seconds: float
    name: str = ""
    format: str = FORMAT
    version: int = VERSION
    pace: float = 0.0
    whole: list[dict[str, float]] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile. Raises DeviceError when it is missing, damaged, or of another version."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise DeviceError(f"the device profile {path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise DeviceError(f"the device profile {path} is not JSON ({error}); was it cut short?") from error
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: Any, source: str = "this") -> Profile:
        """The profile of ``to_dict``. Raises DeviceError."""
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise DeviceError(f"{source} is no device profile. Make one with: reconvene device profile -o {source}")
        if values.get("version") != VERSION:
            raise DeviceError(
                f"{source} has version {values.get('version')}, this release reads {VERSION}. Measure the device again"
            )
        runtime = values.get("runtime")
        if isinstance(runtime, Mapping) and runtime.get("name") != RUNTIME:
            raise DeviceError(
                f"{source} was measured in {runtime.get('name')}, and latency is predicted and timed in {RUNTIME}. "
                "Measure the device with it: reconvene device profile --bundle probe.pyz"
            )
        try:
            profile = cls(**{str(key): value for key, value in values.items()})
            for layer in profile.layers:
                Table.of(layer, profile.steps)
            profile.together()
            profile._sound()
        except (TypeError, KeyError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
            raise DeviceError(f"the device profile {source} is damaged: {error}. Measure the device again") from error
        return profile

    def _sound(self) -> None:
        """Raise ValueError, KeyError or TypeError where a value cannot be one of a device."""
        for name, texts in (("device", ("processor", "architecture")), ("runtime", ("name", "version"))):
            if not all(isinstance(getattr(self, name)[text], str) for text in texts):
                raise ValueError(f"{name} does not say its {' and '.join(texts)}")
        counts = {"threads": self.runtime["threads"], **{name: self.steps[name] for name in ("in", "out", "align")}}
        if wrong := [name for name, value in counts.items() if not isinstance(value, int) or value < 1]:
            raise ValueError(f"{wrong[0]} is {counts[wrong[0]]!r}, not a whole number above 0")
        if self.precision not in ("fp32", "int8"):
            raise ValueError(f"precision {self.precision!r} is neither fp32 nor int8")
        if not all(isinstance(text, str) for text in (self.name, self.date)):
            raise ValueError("name and date are text")
        points = [seconds for layer in self.layers for *_, seconds in layer["points"]]
        numbers = [self.noise, self.seconds, self.pace, self.overhead["call"], self.overhead["node"], *points]
        if not np.isfinite(np.array(numbers, dtype=np.float64)).all() or min([self.pace, *points]) < 0:
            raise ValueError("it holds times that are no numbers, or below zero")
        if points and max(points) <= 0:
            raise ValueError("no layer takes any time")
        for network in self.networks:
            numbers = [int(number) for number, _, _ in network["layers"]]
            if not numbers or not 0 <= min(numbers) <= max(numbers) < len(self.layers) or network["seconds"] <= 0:
                raise ValueError("a whole network is of layers that are not there, or takes no time")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dict(vars(self))

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
        rows = [
            [describe(layer), len(layer["points"]), max(p[2] for p in layer["points"]) * 1e3] for layer in self.layers
        ]
        steps = f"steps of {self.steps['out']} out and {self.steps['in']} in"
        if self.steps["align"] > 1:
            steps += f", slower where in is no multiple of {self.steps['align']}"
        foot = [steps, f"noise {self.noise:.1%}, measured in {self.seconds:.0f} s", f"{self.conditions}, {self.date}"]
        return table(["layer", "points", "widest ms"], rows, foot=foot, title=self.name)

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

    def tables(self, jobs: Sequence[Mapping[str, Any]]) -> dict[str, Table]:
        """A table for every job, by key: its own, or made of those of other spatial sizes.

        Raises DeviceError naming what was not measured.
        """
        layer_by_key = {key_of(layer): layer for layer in self.layers}
        tables = {}
        for job in jobs:
            key = key_of(job)
            if key in layer_by_key:
                layer = layer_by_key[key]
                tables[key] = Table.of(layer, self.steps)
            else:
                tables[key] = self._alike(job)
        return tables

    def _alike(self, job: Mapping[str, Any]) -> Table:
        """Of layers that differ in spatial size or in what is fused only: seconds per position, between two sizes."""
        alike = [layer for layer in self.layers if _family(layer) == _family(job)]
        if not alike:
            raise DeviceError(
                f"the profile of {self.name or self.device['processor']} has no {describe(job)}, nor one of another "
                f"size. Measure the device for this model: reconvene device profile MODEL --precision {self.precision}"
            )
        positions = _positions(job)
        by_size = (
            {_positions(layer): layer for layer in sorted(alike, key=lambda layer: layer["tail"] == job["tail"])}
            if "tail" in job
            else {_positions(layer): layer for layer in alike}
        )
        sizes = sorted(by_size)
        above = next((size for size in sizes if size >= positions), sizes[-1])
        below = next((size for size in reversed(sizes) if size <= positions), sizes[0])
        upper, lower = (Table.of(by_size[size], self.steps) for size in (above, below))
        share = 0.0 if above == below else (np.log(positions) - np.log(below)) / (np.log(above) - np.log(below))

        def scaled(into: int, out: int) -> float:
            low, high = lower.seconds(into, out) / below, upper.seconds(into, out) / above
            return float(positions * np.exp((1 - share) * np.log(low) + share * np.log(high)))

        base = by_size[above] if upper.values.size >= lower.values.size else by_size[below]
        points = [(a, b, scaled(int(a), int(b))) for a, b, _ in base["points"]]
        return Table.of({**base, "points": points}, self.steps)  # weights are the same bytes at any size


def _family(job: Mapping[str, Any]) -> tuple[Any, ...]:
    kernel, stride = tuple(job.get("kernel", ())), tuple(job.get("stride", ()))
    return job["kind"], job.get("op"), kernel, stride, tuple(job.get("dilation", ())), job["groups"], job.get("first")


def _positions(job: Mapping[str, Any]) -> int:
    if job["kind"] == "matmul":
        batch, rows, inner, columns = job["spatial"]
        return int(batch * rows * (columns if job["vary"] == "k" else inner))
    return int(job["batch"] * prod(job["spatial"]))
