"""Attention of three and of five axes is exported: exporters know four."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reconvene as rc
from reconvene.deploy import installed
from reconvene.deploy.attention_rank import FourAxisAttention


class Attention(nn.Module):
    """Attention over ``axes`` axes; of five, positions lie in windows of four, as in hierarchical transformers."""

    def __init__(self, axes: int, *, mask: bool = False) -> None:
        super().__init__()
        self.axes = axes
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mask = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) if mask else None

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        if self.axes == 3:
            return self.out(F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask))
        query, key, value = (t.reshape(len(x), 2, 4, 4, 4).transpose(2, 3) for t in (query, key, value))
        result = F.scaled_dot_product_attention(query, key, value, None, 0.0, True)
        return self.out(result.transpose(2, 3).reshape(x.shape))


CASES = [Attention(3), Attention(3, mask=True), Attention(5)]


@pytest.mark.parametrize("network", CASES, ids=["three axes", "mask", "five axes"])
def test_four_axes_compute_the_same(network: Attention) -> None:
    x = torch.randn(3, 8, 16)
    expected = network(x)
    with FourAxisAttention():
        torch.testing.assert_close(network(x), expected)


@pytest.mark.skipif("onnxruntime" not in installed(), reason="the onnx extra is not installed")
@pytest.mark.parametrize("network", CASES, ids=["three axes", "mask", "five axes"])
def test_an_export_is_verified(network: Attention, tmp_path: Path) -> None:
    exported = rc.export(network.eval(), tmp_path, format="onnx", example_inputs=torch.randn(2, 8, 16))
    assert exported.verification is not None and exported.path.exists()
