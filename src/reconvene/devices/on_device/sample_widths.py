"""At which widths a layer is measured. This file imports nothing of Reconvene, so that it can be copied to a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .layer_spec import LayerJob, LayerSpec, Point


def width_pairs(job: LayerJob, steps: Mapping[str, int]) -> Iterator[Point]:
    """Pairs (in, out) to measure."""
    spec = job.spec
    is_depthwise = spec.kind == "depthwise"
    step_in, step_out = max(steps["in"], 4), max(steps["out"], 4)
    if spec.has_one_width:
        for width in _widths(job.in_width, step_out, fine=is_depthwise):
            yield width, width * max(1, job.out_width // job.in_width) if is_depthwise else 1
        if is_depthwise and steps["align"] > 1:
            for width in _odd(job.in_width):
                yield width, width * max(1, job.out_width // job.in_width)
        return
    outs = _widths(job.out_width, step_out, fine=True)
    if spec.is_first or spec.groups > 1:
        ins = sorted({job.in_width, *(_widths(job.in_width, step_in, fine=False)[:-1] if not spec.is_first else ())})
    else:
        ins = [*(n for n in (4, 8) if n < step_in and n <= job.in_width), *_widths(job.in_width, step_in, fine=False)]
    for width in ins:
        for out in outs:
            yield width, out
    if steps["align"] > 1 and not spec.is_first and spec.kind == "conv" and job.in_width > 8:
        for width in _odd(job.in_width):
            for out in sorted({max(4, job.out_width * n // 4) for n in (1, 2, 4)}):
                yield width, out


def batches(spec: LayerSpec, points: Sequence[Point], limit: int) -> Iterator[list[Point]]:
    """Points that share a graph: one input width where a layer has weights of its own for each."""
    batch: list[Point] = []
    size = 0
    for point in points:
        point_bytes = weight_bytes(spec, point, 4)
        width_changes = batch and point[0] != batch[0][0] and spec.kind not in ("op", "depthwise")
        if batch and (width_changes or size + point_bytes > limit):
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += point_bytes
    if batch:
        yield batch


def weight_bytes(spec: LayerSpec, point: Point, item: int) -> int:
    """Bytes of weights that a layer has at these widths, ``item`` bytes each."""
    if spec.has_one_width:
        return 0
    return int(item * point[0] * point[1] * np.prod(spec.kernel) * max(1, spec.groups))


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
