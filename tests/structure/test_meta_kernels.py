"""Shapes and strides that are known without PyTorch are those that PyTorch says."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.meta_kernels import KERNELS, known_result

A = torch.ops.aten
ONE, TWO, NONE, UNIT = [1, 1], [2, 2], [0, 0], [1, 1]
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


IMAGE, ODD = meta(2, 6, 8, 10), meta(2, 6, 7, 9)
LAST = IMAGE.to(memory_format=torch.channels_last)
TOKENS, TURNED = meta(2, 5, 12), meta(2, 12, 5).transpose(1, 2)
SPREAD = meta(2, 1, 12).expand(2, 5, 12)
FLOATS = (IMAGE, LAST, TOKENS, TURNED, SPREAD, meta(3), meta(), meta(1, 6, 1, 1))
EXTRA = {"clamp": (0.0, 1.0), "clamp_min": (0.0,), "pow": (2.0,), "mul": (3,)}


def elementwise_calls() -> Iterator[Call]:
    for func, kernel in KERNELS.items():
        if kernel.__name__ == "_elementwise":
            extra = EXTRA.get(func.overloadpacket.__name__, ())
            yield from ((func, (x, *extra), {}) for x in FLOATS)
        elif kernel.__name__ == "_in_place":
            second = func.overloadpacket.__name__ in ("add_", "mul_")
            for x in (IMAGE, LAST, TURNED):
                yield from ((func, (x, y), {}) for y in (x, 2)) if second else ((func, (x,), {}),)
        elif kernel.__name__ == "_binary":
            yield from ((func, pair, {}) for pair in itertools.product(FLOATS[:2], FLOATS[:2]))
            yield from ((func, pair, {}) for pair in itertools.product(FLOATS[2:6], FLOATS[2:5]) if pair[0].ndim > 1)
            yield from ((func, (x, y), {}) for x in FLOATS for y in (2, 0.5, meta(), meta(1)))
            yield from (
                (func, pair, {}) for pair in ((meta(4, 1), meta(1, 5)), (IMAGE, meta(6, 1, 1)), (LAST, meta(10)))
            )
        elif kernel.__name__ == "_reduced":
            for x, dims, kept in itertools.product((IMAGE, TOKENS), ([1], [-1, -2], [0, 2]), (False, True)):
                yield func, (x, dims, kept), {}
        elif kernel.__name__ == "upsampling":
            n = 1 if "1d" in str(func) else 3 if "3d" in str(func) else 2
            align = () if "nearest" in str(func) else (False,)
            yield func, (meta(2, 3, *[4] * n), [7, 9, 5][:n], *align), {}


CALLS: list[Call] = [
    *elementwise_calls(),
    (A.add.Tensor, (TOKENS, TURNED), {"alpha": 2}),
    (A.gelu.default, (TOKENS,), {"approximate": "tanh"}),
    *((func, (x, -1, False), {}) for func in (A._softmax.default, A._log_softmax.default) for x in (IMAGE, TOKENS)),
    (A._safe_softmax.default, (TOKENS, -1), {}),
    (A.roll.default, (IMAGE, [1, -1], [2, 3]), {}),
    *((A.convolution.default, (x, meta(4, 6, 3, 3), bias, TWO, ONE, UNIT, False, NONE, 1), {})
      for x in (IMAGE, LAST) for bias in (None, meta(4))),
    (A.convolution.default, (IMAGE, meta(6, 2, 3, 3), None, ONE, NONE, TWO, False, NONE, 3), {}),
    (A.convolution.default, (TOKENS, meta(4, 5, 3), None, [1], [1], [1], False, [0], 1), {}),
    *((A.max_pool2d_with_indices.default, (x, kernel, stride, padding, UNIT, ceil), {})
      for x in (IMAGE, ODD) for kernel, stride, padding in (([2], [2], [0]), ([3, 3], [2, 2], ONE), ([3, 2], [], NONE))
      for ceil in (False, True)),
    (A.max_pool2d_with_indices.default, (ODD, [3]), {}),
    *((A.avg_pool2d.default, (x, [3, 3], TWO, ONE, ceil, False), {}) for x in (IMAGE, ODD) for ceil in (False, True)),
    (A._adaptive_avg_pool2d.default, (IMAGE, [3, 2]), {}),
    *((norm, (x, meta(6), meta(6), meta(6), meta(6), False, 0.1, 1e-5), {})
      for norm in (A.native_batch_norm.default,) for x in (IMAGE, LAST)),
    *((A._native_batch_norm_legit_no_training.default, (x, None, None, meta(6), meta(6), 0.1, 1e-5), {})
      for x in (IMAGE, LAST)),
    *((A.native_layer_norm.default, (x, [12], weight, None, 1e-5), {}) for x in (TOKENS, TURNED)
      for weight in (None, meta(12))),
    (A.native_layer_norm.default, (TOKENS, [5, 12], meta(5, 12), meta(5, 12), 1e-5), {}),
    (A.native_group_norm.default, (IMAGE, meta(6), meta(6), 2, 6, 80, 3, 1e-5), {}),
    (A.linalg_vector_norm.default, (TOKENS, 2.0, [-1], True), {}),
    (A.mm.default, (meta(3, 4), meta(5, 4).t()), {}),
    (A.bmm.default, (TOKENS, meta(2, 12, 7)), {}),
    (A.addmm.default, (meta(7), meta(5, 12), meta(12, 7)), {}),
    (A.cat.default, ([TOKENS, meta(2, 3, 12)], 1), {}),
    (A.cat.default, ([TOKENS, TOKENS], -1), {}),
    *((A.clone.default, (x,), kwargs) for x in FLOATS for kwargs in ({}, {"memory_format": torch.contiguous_format})),
    (A.masked_fill.Scalar, (TOKENS, meta(5, 1, dtype=torch.bool), 0.0), {}),
    (A._grouped_mm.default, (meta(3, 4, 5, dtype=torch.bfloat16), meta(3, 5, 8, dtype=torch.bfloat16)), {}),
]  # fmt: skip


def facts(result: Any) -> list[tuple[tuple[int, ...], list[int], torch.dtype]]:
    """Shape, strides of axes that have some, and type; statistics of norms in eval are not computed."""
    return [
        (tuple(t.shape), [s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1], t.dtype)
        for t in tensors_in(result)
        if t.numel()
    ]


@pytest.mark.parametrize("func", list(KERNELS), ids=str)
def test_a_known_result_is_pytorchs(func: Any) -> None:
    calls = [(args, kwargs) for other, args, kwargs in CALLS if other is func]
    known = [(args, kwargs, known_result(func, args, kwargs)) for args, kwargs in calls]
    assert any(result is not None for *_, result in known)  # it is not PyTorch that is compared with itself
    for args, kwargs, result in known:
        if result is not None and func is not A._grouped_mm.default:  # whose kernel on meta knows graphics cards only
            expected = func(*(real(args) if func is A.convolution.default else args), **kwargs)
            assert facts(result)[:1] == facts(expected)[:1], (args, kwargs)


def real(args: Any) -> Any:
    """Zeros of the same strides: PyTorch's own convolution on meta forgets about channels-last."""
    return map_tensors(lambda t: torch.zeros_like(t, device="cpu"), args)


def test_what_does_not_fit_is_left_to_pytorch() -> None:
    wrong: list[Call] = [
        (A.convolution.default, (IMAGE, meta(4, 5, 3, 3), None, ONE, NONE, UNIT, False, NONE, 1), {}),
        (A.convolution.default, (IMAGE, meta(4, 6, 9, 9), None, ONE, NONE, UNIT, False, NONE, 1), {}),
        (A.max_pool2d_with_indices.default, (IMAGE, [2, 2], [2, 2], TWO), {}),
        (A.max_pool2d_with_indices.default, (IMAGE, [20]), {}),
        (A.mean.dim, (IMAGE, [4]), {}),
        (A.mm.default, (meta(3, 4), meta(5, 3)), {}),
        (A.bmm.default, (TOKENS, meta(3, 12, 7)), {}),
        (A.addmm.default, (meta(7), meta(5, 12), meta(11, 7)), {}),
        (A.add.Tensor, (IMAGE, TOKENS), {}),
        (A.add_.Tensor, (TOKENS, meta(3, 5, 12)), {}),
        (A.cat.default, ([TOKENS, meta(2, 3, 11)], 1), {}),
        (A.native_layer_norm.default, (TOKENS, [11], None, None, 1e-5), {}),
        (A.native_group_norm.default, (IMAGE, None, None, 2, 6, 80, 4, 1e-5), {}),
        (A.masked_fill.Scalar, (TOKENS, meta(4, 1, dtype=torch.bool), 0.0), {}),
    ]
    for func, args, kwargs in wrong:
        with pytest.raises((RuntimeError, IndexError)):  # of PyTorch
            assert known_result(func, args, kwargs) is None
            func(*args, **kwargs)


def test_whole_numbers_and_mixed_types_are_left_to_pytorch() -> None:
    whole, half = meta(2, 5, 12, dtype=torch.int64), meta(2, 5, 12, dtype=torch.float16)
    for func, args in (
        (A.add.Tensor, (whole, 0.5)), (A.mul.Tensor, (TOKENS, half)), (A.sigmoid.default, (whole,)),
        (A.sum.dim_IntList, (whole, [1])), (A.mm.default, (meta(3, 4), meta(4, 5, dtype=torch.float16))),
    ):  # fmt: skip
        assert known_result(func, args, {}) is None


IMPORTS = """
import sys, torch
from torch import nn
import reconvene as rc

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
    def forward(self, x):
        y = self.norm(x)
        return x + self.attention(y, y, y, need_weights=False)[0]

def images(*layers):
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), *layers, nn.Conv2d(16, 16, 3, 2),
                         nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))

tokens = nn.Sequential(nn.Linear(8, 16), nn.GELU(), Attention(), nn.Linear(16, 4))
resized = nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.GroupNorm(4, 16)
for model, shape in (images(nn.MaxPool2d(2)), (3, 32, 32)), (images(*resized), (3, 32, 32)), (tokens, (6, 8)):
    rc.prune(model, torch.randn(1, *shape), rc.Budget(params=0.5))
print([name for name in ("sympy", "torch._dynamo", "torch._inductor") if name in sys.modules])
"""


def test_pruning_imports_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
