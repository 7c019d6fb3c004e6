"""Attention over any number of batch axes, for exporters that know four axes: batch, heads, positions, features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FourAxisAttention(TorchFunctionMode):
    """Within: ``F.scaled_dot_product_attention`` of three, five or more axes runs with four, to the same values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Axes before the heads become one."""
        options = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **options)
        names = ("query", "key", "value", "attn_mask")
        arguments = {**options, **dict(zip(names, args, strict=False))}
        query, key, value = (arguments[name] for name in names[:3])
        if not all(isinstance(tensor, Tensor) for tensor in (query, key, value)) or query.ndim == 4 or query.ndim < 3:
            return func(*args, **options)
        lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])  # type: ignore[no-untyped-call]
        query, key, value = (_four_axes(tensor, lead) for tensor in (query, key, value))
        mask = arguments.get("attn_mask")
        if mask is not None and mask.ndim > 2:
            mask = _four_axes(mask, lead)
        rest = {name: value for name, value in options.items() if name not in names}
        result = func(query, key, value, mask, *args[4:], **rest)
        return result.reshape(*lead, *result.shape[-2:])


def _four_axes(tensor: Tensor, lead: torch.Size) -> Tensor:
    """The tensor over all batch axes ``lead``, of which all but the last become one."""
    whole = tensor.expand(*lead, *tensor.shape[-2:])
    return whole.unsqueeze(0) if len(lead) == 1 else whole.flatten(0, len(lead) - 2)
