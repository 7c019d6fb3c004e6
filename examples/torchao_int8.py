"""Quantise the linear layers of a pruned network with torchao: int8 weights, activations quantised as they come.

pip install 'reconvene[compat]'; python examples/torchao_int8.py

`reconvene export` makes int8 files for runtimes; this is for networks that stay in PyTorch.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

import reconvene as rc


def main() -> tuple[nn.Module, Tensor, Tensor]:
    """The quantised network, and the answers before and after."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    small = rc.prune(dense, torch.randn(8, 64), rc.Budget(params="4x")).eval()
    images = torch.randn(200, 64)
    small8 = copy.deepcopy(small)
    quantize_(small8, Int8DynamicActivationInt8WeightConfig())
    with torch.no_grad():
        return small8, small(images), small8(images)


if __name__ == "__main__":
    _, before, after = main()
    print(f"{float((before.argmax(1) == after.argmax(1)).float().mean()):.1%} of the answers are the same in int8")
