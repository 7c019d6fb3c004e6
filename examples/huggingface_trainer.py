"""Train a pruned vision transformer with the Trainer of transformers: it is still the class that the Trainer knows.

pip install 'reconvene[data,transformers,compat]'; python examples/huggingface_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import reconvene as rc
from reconvene.data import load_data


class Digits(Dataset[dict[str, Tensor]]):
    """Digits as the Trainer wants them: a mapping by the names of the model's arguments."""

    def __init__(self, limit: int) -> None:
        data = load_data("digits", input_shape=(3, 32, 32), limit=limit)
        self.images, self.labels = data.normalise(data.train.images), data.train.targets

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One image and its class."""
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def main(epochs: int = 6) -> tuple[nn.Module, list[float]]:
    """The trained network, and the loss of every logged step."""
    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "intermediate_size": 128, "num_labels": 10}
    model = ViTForImageClassification(ViTConfig(**shape, num_hidden_layers=2, num_attention_heads=4))
    small = rc.prune(model, {"pixel_values": torch.randn(1, 3, 32, 32)}, rc.Budget(params="2x"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=30,
            learning_rate=2e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(small, arguments, train_dataset=Digits(300))
        trainer.train()
    return small, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    _, losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
