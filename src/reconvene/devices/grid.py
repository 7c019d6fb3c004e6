"""Layers to measure where no model is given: what most convolutional networks are made of."""

from __future__ import annotations

from dataclasses import replace

from reconvene.devices.on_device.layer_spec import LayerJob, LayerSpec

# spatial size -> widest layer measured there: networks are wide where images are small
_SIZES = {112: 64, 56: 256, 28: 512, 14: 768, 7: 1024, 32: 128, 16: 256, 8: 512, 4: 512, 2: 512}


def general() -> list[LayerJob]:
    """Convolutions (1x1, 3x3, strides 1 and 2), depthwise ones, linear layers, pools, elementwise work."""
    jobs = [_first(7, 2, 224, 3, 64), _first(3, 2, 224, 3, 64), _first(3, 1, 32, 3, 128), _first(3, 1, 8, 1, 64)]
    for size, width in _SIZES.items():
        for kernel, stride in ((1, 1), (3, 1), (3, 2), (1, 2)):
            if size > 2 or stride == 1:
                jobs.append(LayerJob(_conv(kernel, stride, size), width, width))
        for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2)):
            if size > 4:
                depthwise = replace(_conv(kernel, stride, size), kind="depthwise", groups=0)
                jobs.append(LayerJob(depthwise, width, width))
        for operator in ("add", "relu", "hardswish", "silu", "scale", "global_pool", "copy", "concat", "batch_norm"):
            jobs.append(LayerJob(LayerSpec("op", operator, spatial=(size, size)), width, 1))
        for operator, kernel in (("max_pool", 2), ("max_pool", 3), ("average_pool", 2)):
            pool = LayerSpec("op", operator, spatial=(size, size), kernel=(kernel, kernel), stride=(2, 2))
            jobs.append(LayerJob(replace(pool, pads=(kernel // 3,) * 4), width, 1))
    jobs.append(LayerJob(LayerSpec("linear"), 2048, 1024))
    jobs.append(LayerJob(_conv(1, 1, 1), 1024, 1024))
    return jobs


def _conv(kernel: int, stride: int, size: int) -> LayerSpec:
    return LayerSpec(
        "conv",
        kernel=(kernel, kernel),
        stride=(stride, stride),
        pads=(kernel // 2,) * 4,
        dilation=(1, 1),
        spatial=(size, size),
        tail=("relu",),
    )


def _first(kernel: int, stride: int, size: int, into: int, out: int) -> LayerJob:
    return LayerJob(replace(_conv(kernel, stride, size), is_first=True), into, out)
