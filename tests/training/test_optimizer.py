"""Our optimizers compute what PyTorch's do."""

from __future__ import annotations

import torch
from torch import nn

from reconvene.training.optimizer import AdamW


def test_adamw_equals_the_one_of_pytorch_but_for_decay_of_biases() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.999))
    optimizer = AdamW(ours, momentum=0.9, weight_decay=0.1)
    for step in range(5):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        for network in (ours, theirs):
            network(x).square().mean().backward()
        optimizer.step(0.01)
        reference.step()
        reference.zero_grad()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other)
    restored = AdamW(ours, momentum=0.9, weight_decay=0.1)
    assert restored.momentum_tensors.keys() == optimizer.momentum_tensors.keys()
    assert float(optimizer.momentum_tensors["steps"]) == 5
