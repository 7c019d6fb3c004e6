"""Train a pruned network with Lightning: it is an ordinary module, so nothing has to be told about it.

pip install 'reconvene[data,compat]'; python examples/lightning_fit.py
"""

from __future__ import annotations

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import reconvene as rc
from reconvene.data import load_data
from reconvene.models import MODELS


class Classifier(lightning.LightningModule):
    """Any network that gives scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Cross entropy of one batch."""
        images, labels = batch
        loss = F.cross_entropy(self.network(images), labels)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain Adam."""
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def main(epochs: int = 6) -> tuple[nn.Module, list[float]]:
    """The trained network and the loss of every step."""
    lightning.seed_everything(0)
    data = load_data("digits", input_shape=(3, 32, 32), limit=300)
    small = rc.prune(MODELS["resnet20"](width=0.5), torch.randn(1, 3, 32, 32), rc.Budget(params="4x"))
    images = TensorDataset(data.normalise(data.train.images), data.train.targets)
    classifier = Classifier(small)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(classifier, DataLoader(images, batch_size=30, shuffle=True))
    return small, classifier.losses


if __name__ == "__main__":
    _, losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
