"""Compile a pruned network with torch.compile: one graph, the same answers.

pip install reconvene; python examples/torch_compile.py     (a C++ compiler must be there)
"""

from __future__ import annotations

import torch
from torch import Tensor

import reconvene as rc
from reconvene.models import MODELS


def main() -> tuple[Tensor, Tensor]:
    """The network's answers, plain and compiled."""
    torch.manual_seed(0)
    small = rc.prune(MODELS["resnet20"](width=0.5), torch.randn(1, 3, 32, 32), rc.Budget(params="4x")).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        return small(images), torch.compile(small, fullgraph=True)(images)


if __name__ == "__main__":
    plain, compiled = main()
    print(f"largest difference {float((plain - compiled).abs().max()):.1e}")
