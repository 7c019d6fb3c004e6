"""A device whose costs are known exactly: what is predicted for it can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from reconvene import devices
from reconvene.devices.on_device.layer_spec import LayerJob, LayerSpec, MeasuredLayer
from reconvene.devices.on_device.sample_widths import weight_bytes, width_pairs
from reconvene.structure import Structure, analyse

STEPS = {"in": 16, "out": 16, "align": 4}


def blocks(width: int, step: int) -> int:
    return -(-width // step)


def cost(spec: LayerSpec, into: int, out: int) -> float:
    """Seconds: a fixed part, and one per pair of blocks; operators by channel."""
    if spec.kind in ("op", "matmul"):
        return 1e-6 + 1e-8 * into
    if spec.kind == "depthwise":
        return 2e-6 + 1e-6 * blocks(into, 16)
    slower = 3.0 if into % 4 and spec.kind == "conv" and not spec.is_first else 1.0
    wide = into if into <= 16 else 16 * blocks(into, 16)
    return slower * (2e-6 + 4e-7 * wide * blocks(out, 16))


def profile(jobs: Sequence[LayerJob], *, name: str = "fake", far: float = 0.0) -> devices.Profile:
    layers = []
    for job in jobs:
        spec = job.spec
        points = tuple((a, b, cost(spec, a, b)) for a, b in width_pairs(job, STEPS))
        extra = tuple((a, b, far * weight_bytes(spec, (a, b), 4)) for a in (16, 64) for b in (16, 64))
        has_extra = far and weight_bytes(spec, (1, 1), 4)
        layers.append(MeasuredLayer(spec, job.in_width, job.out_width, points, extra if has_extra else ()))
    return devices.Profile.from_dict(
        {
            "format": "reconvene-device-profile",
            "version": 1,
            "name": name,
            "device": {"processor": "a machine that is nowhere", "architecture": "none", "cores": 1},
            "runtime": {"name": "onnxruntime", "version": "1.0", "threads": 1},
            "precision": "fp32",
            "noise": 0.01,
            "seconds": 1.0,
            "date": "2026-01-01T00:00:00+00:00",
            "steps": STEPS,
            "overhead": {"call": 5e-6, "node": 1e-6},
            "memory": [[1 << 20, 0.0], [64 << 20, 1e-11]],
            "far_bytes": 64 << 20,
            "layers": [layer.to_dict() for layer in layers],
        }
    )


def of(model: nn.Module, inputs: Any) -> tuple[Structure, devices.Profile]:
    """The structure of a model, and a device that knows its layers."""
    structure = analyse(model, inputs)
    return structure, profile(devices.jobs(devices.sites(structure)))
