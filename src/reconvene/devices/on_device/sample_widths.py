"""At which widths a layer is measured. This file imports nothing of Reconvene, so that it can be copied to a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .facts import Job

Point = tuple[int, int]
"""Channels in and out."""


def width_pairs(job: Job, steps: Mapping[str, int]) -> Iterator[Point]:
    """Pairs (in, out) to measure."""
    layer_kind = job["kind"]
    step_in, step_out = max(steps["in"], 4), max(steps["out"], 4)
    if layer_kind in ("op", "matmul", "depthwise"):
        for width in _widths(job["in"], step_out, fine=layer_kind == "depthwise"):
            yield width, width * max(1, job["out"] // job["in"]) if layer_kind == "depthwise" else 1
        if layer_kind == "depthwise" and steps["align"] > 1:
            for width in _odd(job["in"]):
                yield width, width * max(1, job["out"] // job["in"])
        return
    outs = _widths(job["out"], step_out, fine=True)
    if job.get("first") or job["groups"] > 1:
        ins = sorted({job["in"], *(_widths(job["in"], step_in, fine=False)[:-1] if not job.get("first") else ())})
    else:
        ins = [*(n for n in (4, 8) if n < step_in and n <= job["in"]), *_widths(job["in"], step_in, fine=False)]
    for width in ins:
        for out in outs:
            yield width, out
    if steps["align"] > 1 and not job.get("first") and layer_kind == "conv" and job["in"] > 8:
        for width in _odd(job["in"]):
            for out in sorted({max(4, job["out"] * n // 4) for n in (1, 2, 4)}):
                yield width, out


def batches(job: Job, points: Sequence[Point], limit: int) -> Iterator[list[Point]]:
    """Points that share a graph: one input width where a layer has weights of its own for each."""
    batch: list[Point] = []
    size = 0
    for point in points:
        point_bytes = weight_bytes(job, point, 4)
        width_changes = batch and point[0] != batch[0][0] and job["kind"] not in ("op", "depthwise")
        if batch and (width_changes or size + point_bytes > limit):
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += point_bytes
    if batch:
        yield batch


def weight_bytes(job: Job, point: Point, item: int) -> int:
    """Bytes of weights that a layer has at these widths, ``item`` bytes each."""
    if job["kind"] in ("op", "matmul", "depthwise"):
        return 0
    return int(item * point[0] * point[1] * np.prod(job.get("kernel", [1])) * max(1, job.get("groups", 1)))


def _widths(top: int, block: int, *, fine: bool) -> list[int]:
    """Multiples of ``block`` up to ``top`` rounded up: all of the first eight if ``fine``, then sparser."""
    last = -(-top // block) * block
    dense = [block * n for n in ((1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32) if fine else (1, 2, 4, 8, 16, 32))]
    while dense[-1] < last:
        dense.append(dense[-1] + (dense[-1] if not fine else 16 * block))
    return sorted({width for width in dense if width < last} | {last})


def _odd(top: int) -> list[int]:
    """Widths that are no multiple of four."""
    return sorted({max(2, top * n // 8 // 4 * 4 - 2) for n in (2, 4, 8)})
