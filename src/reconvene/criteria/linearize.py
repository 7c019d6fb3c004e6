"""Run a network as the positive linear map SynFlow speaks about, without touching the network.

SynFlow (2006.05467) proves its conservation law for networks whose only nonlinearities are positively homogeneous
(ReLU, max and average pooling). Real ones also hold norms, saturating activations, gates and attention. ``Linear``
intercepts those functions while a network runs and puts the piece in their place that keeps signal flowing; operators
follow the rules of ``arithmetic``:

- norms are the identity: neutral statistics, scale one, shift zero. (Their scale is one at initialization in any case,
  save where a recipe starts a residual branch at zero, which would hide the branch from the criterion.)
- activations that are the identity for large positive input (``gelu``, ``silu``, ``hardswish``, ``elu``, ...) or that
  clip it (``relu6``, ``hardtanh``, ``tanh``) are the identity, as ReLU is on the nonnegative signals here: a clipped
  signal has no gradient, and every score before it would be zero.
- gates (``sigmoid``, ``hardsigmoid``) are open, value one, and pass gradient as the identity would relative to its
  value: a relative change before the gate is the same relative change after it. So the layers that feed a gate carry as
  much flow as the layers it gates, instead of none (saturated) or a power of it (product).
- ``softmax`` and attention weigh all positions alike, with the gradient of a gate.
- an embedding is fed all of its rows at once, which is what an all-ones input is in one-hot coding.
- recurrent layers take two steps (``recurrent``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reconvene.criteria.arithmetic import positive_counterpart
from reconvene.criteria.recurrent import RECURRENT
from reconvene.criteria.scaled_tensor import gate, live, marked_like, signal


class PositiveCounterpart(TorchFunctionMode):
    """Context in which a network runs as its positive linear counterpart, on tensors of ``scaled_tensor``.

    ``extents`` collects, for every convolution met, the smallest spatial input it saw per dimension and how far its
    kernel reaches: ``(size, reach)`` pairs in order of execution. ``reads_strides`` tells whether the model looked at
    how a tensor lies in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.extents: list[tuple[int, int]] = []
        self.reads_strides = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace what is in the table, pass everything else on."""
        kwargs = kwargs or {}
        if func in CONVOLUTIONS:
            self._note(*args, **kwargs)
            args, kwargs = _picked(*args, **kwargs)
        if func in _LINEAR:
            return _LINEAR[func](*args, **kwargs)
        self.reads_strides |= func in STRIDES
        if func is F.relu:
            return _relu(*args, **kwargs)
        return positive_counterpart(func, getattr(func, "__name__", ""), args, kwargs)

    def _note(self, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> None:
        dilation = kwargs.get("dilation", args[3] if len(args) > 3 else 1)
        dims = weight.ndim - 2
        spread = (
            [dilation] * dims if isinstance(dilation, int) else list(dilation) * (dims if len(dilation) == 1 else 1)
        )
        for size, kernel, step in zip(input.shape[-dims:], weight.shape[2:], spread, strict=True):
            self.extents.append((int(size), (int(kernel) - 1) * int(step) + 1))


def _identity(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return input


def _picked(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    *trailing_args: Any,
    **others: Any,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a convolution; one by one with strides becomes one without, of the pixels it looks at.

    The gradient of the former, in the memory order that weights have here, writes past its buffers (seen with PyTorch
    2.15 on CPU, with fewer than 16 channels), and the latter is no slower.
    """
    dims = weight.ndim - 2
    steps = (stride,) * dims if isinstance(stride, int) else tuple(stride) * (dims if len(stride) == 1 else 1)
    if max(weight.shape[2:]) == 1 and max(steps) > 1 and padding in (0, (0,), (0,) * dims, "valid"):
        window: tuple[Any, ...] = (..., *(slice(None, None, step) for step in steps))
        input = marked_like(input[window], input)
        stride = 1
    return (input, weight, bias, stride, padding, *trailing_args), others


def _relu(input: Tensor, inplace: bool = False) -> Tensor:
    """In place on request, except on the output of another ReLU: norms between the two are the identity here."""
    activation: Tensor = positive_counterpart(
        F.relu, "relu", (input,), {"inplace": inplace and not hasattr(input, RECTIFIED)}
    )
    setattr(activation, RECTIFIED, True)
    return activation


def _gate(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """One everywhere; gradient ``1 / input`` where there is input."""
    value = input.detach()
    reached = value > 0
    opened: Tensor = gate(torch.where(reached, input / torch.where(reached, value, 1.0), torch.ones_like(value)))
    return opened


def _softmax(input: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> Tensor:
    weights: Tensor = gate(_gate(input) / input.shape[-1 if dim is None else dim])
    return weights


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, opener = (marked_like(half, input) for half in input.chunk(2, dim))
    gated: Tensor = positive_counterpart(torch.mul, "mul", (value, _gate(opener)), {})
    return gated


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if kwargs.get("enable_gqa"):
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (marked_like(side.repeat_interleave(repeats, -3), side) for side in (key, value))
    turned = marked_like(key.transpose(-2, -1), key)
    similarity = positive_counterpart(torch.matmul, "matmul", (query, turned), {})
    mixed: Tensor = positive_counterpart(torch.matmul, "matmul", (_softmax(similarity), value), {})
    return mixed


def _multi_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """``F.multi_head_attention_forward`` on ``[length, (batch,) features]``, without biases."""
    if in_proj_weight is not None and not kwargs.get("use_separate_proj_weight"):
        projections = tuple(marked_like(part, in_proj_weight) for part in in_proj_weight.chunk(3))
    else:
        projections = tuple(kwargs[f"{letter}_proj_weight"] for letter in "qkv")
    heads = []
    for source, projection in zip((query, key, value), projections, strict=True):
        projected = positive_counterpart(F.linear, "linear", (source, projection), {})
        split = projected.reshape(*projected.shape[:-1], num_heads, -1).movedim(0, -2)
        heads.append(marked_like(split, projected))
    mixed = _attention(*heads)
    joined = marked_like(mixed.movedim(-2, 0).flatten(-2), mixed)
    return positive_counterpart(F.linear, "linear", (joined, out_proj_weight), {}), None


def _embedding(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    rows: Tensor = signal(weight.sum(0).expand(*input.shape, weight.shape[1]))
    return rows


def _normalised_rows(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``F.normalize`` divides by a norm that is a constant of the signal: the direction is what flows."""
    direction: Tensor = marked_like(input / math.sqrt(input.shape[-1]), input)
    return direction


def _weight_norm(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    """A normalised weight: its norm is a constant, and of a part that a mask has emptied nothing is left."""
    norm = torch.norm_except_dim(direction.detach(), 2, dim)
    weight: Tensor = live(direction * torch.where(norm > 0, length.abs() / torch.where(norm > 0, norm, 1.0), 0.0))
    return weight


RECTIFIED = "_reconvene_rectified"
STRIDES = {torch.as_strided, Tensor.as_strided, Tensor.stride}
CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d}
_LINEAR: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys(
        (F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.rms_norm, F.local_response_norm), _identity
    ),
    **dict.fromkeys(
        (torch.batch_norm, torch.layer_norm, torch.group_norm, torch.instance_norm, torch.rms_norm), _identity
    ),
    **dict.fromkeys(
        (F.relu6, F.hardtanh, F.hardtanh_, F.hardswish, F.gelu, F.silu, F.mish, F.elu, F.elu_, F.selu, F.selu_),
        _identity,
    ),
    **dict.fromkeys((F.celu, F.celu_, F.softplus, F.softsign, F.tanh, torch.tanh, torch.tanh_), _identity),
    **dict.fromkeys((Tensor.tanh, Tensor.tanh_, torch.selu, torch.selu_, torch.celu, torch.celu_), _identity),
    **dict.fromkeys((F.log_softmax, torch.log_softmax, Tensor.log_softmax, F.logsigmoid), _identity),
    **dict.fromkeys((F.sigmoid, F.hardsigmoid, torch.sigmoid, torch.special.expit), _gate),
    **dict.fromkeys((Tensor.sigmoid, torch.sigmoid_, Tensor.sigmoid_), _gate),
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), _softmax),
    F.normalize: _normalised_rows,
    F.glu: _glu,
    F.softmin: _softmax,
    **RECURRENT,
    torch._weight_norm: _weight_norm,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head,
    F.embedding: _embedding,
    torch.embedding: _embedding,
}
