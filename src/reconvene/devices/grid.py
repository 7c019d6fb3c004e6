"""Layers to measure where no model is given: what most convolutional networks are made of."""

from __future__ import annotations

from typing import Any

# spatial size -> widest layer measured there: networks are wide where images are small
_SIZES = {112: 64, 56: 256, 28: 512, 14: 768, 7: 1024, 32: 128, 16: 256, 8: 512, 4: 512, 2: 512}


def general() -> list[dict[str, Any]]:
    """Convolutions (1x1, 3x3, strides 1 and 2), depthwise ones, linear layers, pools, elementwise work."""
    jobs = [_conv(7, 2, 224, 3, 64, first=True), _conv(3, 2, 224, 3, 64, first=True)]
    jobs += [_conv(3, 1, 32, 3, 128, first=True), _conv(3, 1, 8, 1, 64, first=True)]
    for size, width in _SIZES.items():
        for kernel, stride in ((1, 1), (3, 1), (3, 2), (1, 2)):
            if size > 2 or stride == 1:
                jobs.append(_conv(kernel, stride, size, width, width))
        for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2)):
            if size > 4:
                jobs.append({**_conv(kernel, stride, size, width, width), "kind": "depthwise", "groups": 0})
        for op in ("add", "relu", "hardswish", "silu", "scale", "global_pool", "copy", "concat", "batch_norm"):
            jobs.append(_operator(op, size, width))
        for op, kernel in (("max_pool", 2), ("max_pool", 3), ("average_pool", 2)):
            window = {"kernel": [kernel] * 2, "stride": [2, 2], "pads": [kernel // 3] * 4}
            jobs.append({**_operator(op, size, width), **window})
    jobs.append({"kind": "linear", "batch": 1, "spatial": [], "groups": 1, "tail": [], "in": 2048, "out": 1024})
    jobs.append(_conv(1, 1, 1, 1024, 1024))
    return jobs


def _conv(kernel: int, stride: int, size: int, into: int, out: int, *, first: bool = False) -> dict[str, Any]:
    return {
        "kind": "conv",
        "kernel": [kernel, kernel],
        "stride": [stride, stride],
        "pads": [kernel // 2] * 4,
        "dilation": [1, 1],
        "groups": 1,
        "spatial": [size, size],
        "batch": 1,
        "tail": ["relu"],
        "first": first,
        "in": into,
        "out": out,
    }


def _operator(op: str, size: int, width: int) -> dict[str, Any]:
    job = {"kind": "op", "op": op, "batch": 1, "spatial": [size, size], "axis": 1, "groups": 1}
    return {**job, "in": width, "out": 1}
