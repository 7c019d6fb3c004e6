"""Which recorded operators a runtime computes, and what is measured for them."""

from __future__ import annotations

ACTIVATIONS = {
    "relu": "relu",
    "relu_": "relu",
    "hardtanh": "clip",
    "hardtanh_": "clip",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "hardsigmoid": "hardsigmoid",
    "hardsigmoid_": "hardsigmoid",
    "silu": "silu",
    "silu_": "silu",
    "hardswish": "hardswish",
    "hardswish_": "hardswish",
    "gelu": "gelu",
    "leaky_relu": "relu",
    "leaky_relu_": "relu",
    "elu": "sigmoid",
    "tanh": "sigmoid",
}
"""Activation to what is measured for it."""
_FREE_NAMES = (
    "view _unsafe_view reshape t transpose expand squeeze unsqueeze select slice split split_with_sizes chunk unbind",
    "alias detach empty dropout native_dropout lift_fresh _to_copy scalar_tensor full ones zeros arange as_strided",
)
FREE = frozenset(name for line in _FREE_NAMES for name in line.split())
NORMS = frozenset({"native_batch_norm", "_native_batch_norm_legit_no_training"})
POOLS = {"max_pool2d_with_indices": "max_pool", "max_pool2d": "max_pool", "avg_pool2d": "average_pool"}
OTHERS = {
    "_softmax": "softmax",
    "_safe_softmax": "softmax",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "layer_norm",
    "cat": "concat",
    "permute": "copy",
    "mean": "global_pool",
    "_adaptive_avg_pool2d": "global_pool",
    "adaptive_avg_pool2d": "global_pool",
    "upsample_nearest2d": "resize",
    "upsample_bilinear2d": "resize",
}
SIMILAR = frozenset({"leaky_relu", "leaky_relu_", "elu", "tanh", "native_group_norm", "upsample_bilinear2d"})
"""Operators for which one of the same shape of work is measured: their times are estimates."""
