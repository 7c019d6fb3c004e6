"""Activations in place, for an exporter that knows the operators out of place only."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class CopiedActivations(TorchFunctionMode):
    """Within: ``F.relu6(x, inplace=True)`` and the like compute a new tensor and copy it into ``x``.

    torch's ONNX exporter has one operator for ``hardtanh``, ``hardswish`` or ``silu``, but none for their forms in
    place: it traces each call through a definition in Python, which was a third of the time of exporting a MobileNetV2.
    It has one for ``relu`` in place.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls without ``inplace=True`` are left as they are."""
        options = dict(kwargs or {})
        if func is F.relu or options.get("inplace") is not True:
            return func(*args, **options)
        target = args[0] if args else options["input"]
        return target.copy_(func(*args, **{**options, "inplace": False}))
