"""Train a pruned network with Accelerate: `accelerate launch examples/accelerate_loop.py` uses whatever is there.

pip install 'reconvene[data,compat]'; python examples/accelerate_loop.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import reconvene as rc
from reconvene.data import load_data
from reconvene.models import MODELS


def main(epochs: int = 6) -> tuple[nn.Module, list[float]]:
    """The trained network and the loss of every step."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.manual_seed(0)
    data = load_data("digits", input_shape=(3, 32, 32), limit=300)
    small = rc.prune(MODELS["resnet20"](width=0.5), torch.randn(1, 3, 32, 32), rc.Budget(params="4x"))
    images = TensorDataset(data.normalise(data.train.images), data.train.targets)
    network, optimizer, batches = accelerator.prepare(
        small, torch.optim.Adam(small.parameters(), lr=5e-3), DataLoader(images, 30, shuffle=True)
    )
    losses = []
    for _ in range(epochs):
        for inputs, labels in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
    return accelerator.unwrap_model(network), losses


if __name__ == "__main__":
    _, losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
