"""Digits on encrypted images: a dense and a pruned network of squares under CKKS.

``pip install 'reconvene[encrypted]'``, then ``python examples/encrypted_digits.py``: about a minute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reconvene as rc
from reconvene.data import Dataset, load_data
from reconvene.deploy.encrypted import EncryptedNetwork, EncryptedRun

IMAGES = 300


class Square(nn.Module):
    """The activation: CKKS has sums and products, and no comparison, so no ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Every number times itself."""
        return x * x


def build(hidden: int) -> nn.Sequential:
    """64 pixels, one hidden layer, ten classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), Square(), nn.Linear(hidden, 10))


def train(net: nn.Module, data: Dataset, *, epochs: int = 30) -> nn.Module:
    """Cross entropy with Adam."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    images, labels = data.normalise(data.train.images), data.train.targets
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[part]), labels[part]).backward()
            optimizer.step()
    return net.eval()


def encrypted(net: nn.Module, images: Tensor) -> tuple[EncryptedNetwork, EncryptedRun]:
    """Run a network on encrypted images, all of them in the slots of each ciphertext."""
    network = EncryptedNetwork(net, images[:1])
    return network, network.run(images)


def main() -> None:
    """Train both, run both encrypted, compare with PyTorch."""
    torch.manual_seed(0)
    data = load_data("digits", input_shape=(1, 8, 8))
    images, labels = data.normalise(data.test.images[:IMAGES]), data.test.targets[:IMAGES]
    dense = build(64)
    pruned = rc.prune(dense, images[:1], budget=rc.Budget(macs="4x"))
    seconds = {}
    for name, net in (("dense", train(dense, data)), ("pruned", train(pruned, data))):
        network, run = encrypted(net, images)
        expected = net(images).detach().double()
        answers = run.scores.argmax(1)
        agreement = float((answers == expected.argmax(1)).double().mean())
        accuracy = float((answers == labels).double().mean())
        error = float((run.scores - expected).abs().max())
        seconds[name] = run.seconds
        print(
            f"{name}: {run.seconds:.1f} s for {IMAGES} images, {run.products:,} products, {run.ciphertexts} ciphertexts"
        )
        print(f"  {run.levels} levels of {network.readiness.levels} predicted, {network.parameters}")
        print(f"  accuracy {accuracy:.1%}, agreement with PyTorch {agreement:.1%}, largest error {error:.1e}")
    macs = rc.measure(dense, images[:1]).macs / rc.measure(pruned, images[:1]).macs
    print(f"{seconds['dense'] / seconds['pruned']:.2f} times faster for {macs:.2f} times fewer multiply-accumulates")


if __name__ == "__main__":
    main()
