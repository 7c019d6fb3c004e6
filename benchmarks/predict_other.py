"""Other ways to foresee what a cut costs, tried against the same ground truth; all look at the cut network itself.

Each group is cut to an eighth as in ``predict.py`` (surgery, rectification), and the untrained small network is asked:

- ``probe``: ridge regression from its last features to the classes, error on other images (random features);
- ``rank``: effective rank (exp of the entropy of the spectrum) of its last features;
- ``patterns``: log-determinant of the kernel of ReLU patterns (NASWOT, 2006.04647);
- ``gradient``: norm of the loss's gradient, ``saliency``: sum of ``|w dL/dw|``;
- ``start``: training loss after twenty steps;
- ``size``: parameters that leave, ``narrow``: channels that are left (fewer, more loss). These two cost nothing.

The loss foreseen is how much worse the cut network scores than the dense one. Lines go to ``predict_scores.jsonl``.

    python benchmarks/predict_other.py --model vgg16_bn --data PATH
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from predict import RESULTS, SHARE, TIERS
from torch import Tensor, nn
from torch.nn import functional as F

from reconvene.data import Dataset, load, train_batches
from reconvene.experiments.arms import ARMS
from reconvene.experiments.results import commit
from reconvene.experiments.setting import Setting
from reconvene.models import example_inputs, resolve
from reconvene.structure import analyse
from reconvene.training import TrainConfig

IMAGES, BATCH, STEPS, RIDGE = 1000, 128, 20, 1.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--data", default="../shared/data/cifar10")
    options.add_argument("--tier", choices=TIERS, default="small")
    options.add_argument("--model", required=True)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--results", type=Path, default=RESULTS)
    asked = options.parse_args()
    tier = TIERS[asked.tier]
    model, args, *_ = next(entry for entry in tier["models"] if entry[0] == asked.model)
    images = {**tier["data"], "spec": tier["data"]["spec"] or asked.data}
    dataset = load(images["spec"], limit=images["limit"])
    source = resolve(model, args, seed=asked.seed)
    dense = source.build()
    groups = [group for group in analyse(dense, example_inputs((3, 32, 32))).prunable]
    whole = {name: measure(source.build(), dataset, asked.seed) for name, measure in MEASURES.items()}
    loss: dict[str, dict[str, float]] = {name: {} for name in (*MEASURES, "size", "narrow")}
    seconds = dict.fromkeys(loss, 0.0)
    for group in groups:
        for name, measure in MEASURES.items():
            small = cut(source.build(), dataset, group.name, asked.seed)
            start = time.process_time()
            loss[name][group.name] = whole[name] - measure(small, dataset, asked.seed)
            seconds[name] += time.process_time() - start
        total = sum(p.numel() for p in dense.parameters())
        loss["size"][group.name] = 1 - sum(p.numel() for p in small.parameters()) / total
        loss["narrow"][group.name] = 1 / max(1, round(SHARE * group.width))
        print(group.name, {name: round(values[group.name], 4) for name, values in loss.items()}, flush=True)
    file = asked.results / f"predict_scores{'' if asked.tier == 'small' else f'_{asked.tier}'}.jsonl"
    with file.open("a") as out:
        for name, values in loss.items():
            line = {"model": model, "args": args, "seed": asked.seed, "criterion": "the cut network", "evaluator": name}
            line |= {"share": SHARE, "loss": values, "cpu_seconds": seconds[name], "commit": commit()}
            out.write(json.dumps(line) + "\n")


def cut(model: nn.Module, dataset: Dataset, group: str, seed: int) -> nn.Module:
    """The network with one group at ``SHARE``, rectified."""
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            model=model,
            inputs=example_inputs((3, 32, 32), seed=seed),
            dataset=dataset,
            budget=None,
            options={**ARMS["cut"].options, "group": group, "share": SHARE},
            seed=seed,
            epochs=1,
            config=TrainConfig(seed=seed),
            round_to=8,
            folder=Path(folder),
        )
        return ARMS["cut"].prepare(setting).model


def features(model: nn.Module, images: Tensor) -> Tensor:
    """What the last linear layer is given, with the norms' statistics of these images."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model.train()(images)
    hook.remove()
    return seen[0].double()


def probe(model: nn.Module, dataset: Dataset, seed: int) -> float:
    """Minus the squared error of ridge regression on images it was not fitted to."""
    train, test = (dataset.normalise(split.images[:IMAGES]) for split in (dataset.train, dataset.test))
    x, z = features(model, train), features(model, test)
    middle, scale = x.mean(0), x.std(0) + 1e-9
    x, z = ((f - middle) / scale for f in (x, z))
    y = F.one_hot(dataset.train.labels[:IMAGES], len(dataset.classes)).double()
    base = y.mean(0)
    kernel = x @ x.T + RIDGE * x.shape[1] * torch.eye(len(x), dtype=torch.float64) / 10
    said = z @ x.T @ torch.linalg.solve(kernel, y - base) + base
    target = F.one_hot(dataset.test.labels[:IMAGES], len(dataset.classes)).double()
    return -float((said - target).square().sum(1).mean())


def rank(model: nn.Module, dataset: Dataset, seed: int) -> float:
    """Log of the effective rank of the last features."""
    x = features(model, dataset.normalise(dataset.train.images[:IMAGES]))
    spectrum = torch.linalg.svdvals(x - x.mean(0))
    share = spectrum / spectrum.sum()
    return float(-(share * share.clamp(min=1e-30).log()).sum())


def patterns(model: nn.Module, dataset: Dataset, seed: int) -> float:
    """Log-determinant of the matrix that counts on how many ReLUs two images agree, per ReLU."""
    codes: list[Tensor] = []
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(lambda _, args, out: codes.append((out.detach() > 0).flatten(1))) for m in norms]
    with torch.no_grad():
        model.train()(dataset.normalise(dataset.train.images[:BATCH]))
    for hook in hooks:
        hook.remove()
    code = torch.cat(codes, dim=1).float()
    agree = (code @ code.T + (1 - code) @ (1 - code).T) / code.shape[1]
    return float(torch.linalg.slogdet(agree.double()).logabsdet)


def gradient(model: nn.Module, dataset: Dataset, seed: int) -> float:
    """Log of the gradient's norm."""
    return float(torch.stack([g.square().sum() for _, g in _gradients(model, dataset)]).sum().log() / 2)


def saliency(model: nn.Module, dataset: Dataset, seed: int) -> float:
    """Log of the sum of ``|w dL/dw|``."""
    return float(torch.stack([(w * g).abs().sum() for w, g in _gradients(model, dataset)]).sum().log())


def start(model: nn.Module, dataset: Dataset, seed: int) -> float:
    """Minus the mean training loss of the last ten of twenty steps."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    losses = []
    for step, (x, y) in enumerate(train_batches(dataset, batch_size=64, seed=seed, epoch=0)):
        if step == STEPS:
            break
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return -sum(losses[STEPS // 2 :]) / (STEPS - STEPS // 2)


def _gradients(model: nn.Module, dataset: Dataset) -> list[tuple[Tensor, Tensor]]:
    model.train()
    loss = F.cross_entropy(model(dataset.normalise(dataset.train.images[:BATCH])), dataset.train.labels[:BATCH])
    weights = [p for p in model.parameters() if p.ndim >= 2]
    return list(zip((w.detach() for w in weights), torch.autograd.grad(loss, weights), strict=True))


MEASURES: dict[str, Callable[[nn.Module, Dataset, int], float]] = {
    "probe": probe,
    "rank": rank,
    "patterns": patterns,
    "gradient": gradient,
    "saliency": saliency,
    "start": start,
}


if __name__ == "__main__":
    main()
