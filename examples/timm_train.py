"""Train a pruned artifact with timm: with its parts, or with its own train script, unchanged.

pip install 'reconvene[vision]'
python examples/timm_train.py pytorch-image-models/train.py --model reconvene_artifact --model-kwargs artifact=out/ \
    --data-dir images/ --input-size 3 32 32 --num-classes 10

timm's script lies in its repository, not in its package.
"""

from __future__ import annotations

import runpy
import sys

import timm.loss
import timm.optim
import timm.scheduler
import timm.utils
import torch
from timm.models import register_model
from torch import nn

import reconvene as rc
from reconvene.data import load_data, train_batches


@register_model
def reconvene_artifact(artifact: str, pretrained: bool = False, **asked: object) -> nn.Module:
    """What ``timm.create_model("reconvene_artifact", artifact="out/")`` gives: the network as it was pruned."""
    network = rc.load(artifact)
    found = {"num_classes": network(torch.zeros(2, *network.reconvene_source.input_shape)).shape[1]}
    wrong = {name: asked[name] for name in found if asked.get(name, found[name]) != found[name]}
    if pretrained or wrong:
        raise ValueError(f"{artifact} is as it was pruned, with {found}: it cannot become {wrong or 'pretrained'}")
    network.num_classes = found["num_classes"]
    return network


def main(artifact: str, epochs: int = 6) -> tuple[nn.Module, list[float]]:
    """Train with what timm's script is made of: its optimizer, schedule, loss and averaged weights."""
    torch.manual_seed(0)
    network = timm.create_model("reconvene_artifact", artifact=artifact, num_classes=10)
    data = load_data("digits", input_shape=network.reconvene_source.input_shape, limit=300)
    optimizer = timm.optim.create_optimizer_v2(network, opt="adam", lr=5e-3)
    scheduler, _ = timm.scheduler.create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=0)
    averaged = timm.utils.ModelEmaV3(network, decay=0.9)
    objective = timm.loss.LabelSmoothingCrossEntropy(0.1)
    losses = []
    for epoch in range(epochs):
        for images, labels in train_batches(data, batch_size=30, seed=0, epoch=epoch):
            optimizer.zero_grad()
            loss = objective(network(images), labels)
            loss.backward()
            optimizer.step()
            averaged.update(network)
            losses.append(float(loss.detach()))
        scheduler.step(epoch + 1)
    return averaged.module, losses


if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1].endswith(".py"):
        sys.exit(__doc__)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
