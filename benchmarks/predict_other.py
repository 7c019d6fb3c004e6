"""Other ways to foresee what a cut costs, tried against the same ground truth; all look at the cut network itself.

Each group is cut to an eighth as in ``predict.py`` (surgery, rectification), and the untrained small network is asked:

- ``probe``: ridge regression from its last features to the classes, error on other images (random features);
- ``rank``: effective rank (exp of the entropy of the spectrum) of its last features;
- ``patterns``: log-determinant of the kernel of ReLU patterns (NASWOT, 2006.04647);
- ``gradient``: norm of the loss's gradient, ``saliency``: sum of ``|w dL/dw|``;
- ``start``: training loss after twenty steps;
- ``size``: parameters that leave, ``narrow``: channels that are left (fewer, more loss). These two cost nothing;
- ``around``: how much of the last features depends on the group at all, 1 - CKA (1905.00414) of the dense network's and
  those with all but one of its channels silenced: little where a residual path goes around it;
- ``around_fan_in``: that, times what the evaluator ``fan_in`` says.

The loss foreseen is how much worse the cut network scores than the dense one. Lines go to ``predict_scores.jsonl``.

    python benchmarks/predict_other.py --model vgg16_bn --data PATH [--only around,around_fan_in]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from predict import RESULTS, SHARE, TIERS
from torch import Tensor, nn
from torch.nn import functional as F

from reconvene.criteria import score
from reconvene.data import Dataset, load_data, train_batches
from reconvene.evaluator import evaluate_groups
from reconvene.experiments.context import Setting
from reconvene.experiments.methods import ARMS
from reconvene.experiments.results import source_commit
from reconvene.models import example_inputs, resolve_address
from reconvene.structure import Structure, analyse
from reconvene.surgery import make_plan
from reconvene.training import TrainConfig

IMAGES, BATCH, STEPS, RIDGE = 1000, 128, 20, 1.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="../shared/data/cifar10")
    options.add_argument("--tier", choices=TIERS, default="small")
    options.add_argument("--model", required=True)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", default="", help="only these, with commas between")
    options.add_argument("--results", type=Path, default=RESULTS)
    asked = options.parse_args()
    wanted = set(asked.only.split(",")) if asked.only else {*MEASURES, *CHEAP, *AROUND}
    tier = TIERS[asked.tier]
    model, args, *_ = next(entry for entry in tier["models"] if entry[0] == asked.model)
    images = {**tier["data"], "spec": tier["data"]["spec"] or asked.data}
    dataset = load_data(images["spec"], limit=images["limit"])
    source = resolve_address(model, args, seed=asked.seed)
    dense = source.build()
    structure = analyse(dense, example_inputs((3, 32, 32)))
    loss: dict[str, dict[str, float]] = {name: {} for name in sorted(wanted)}
    seconds = dict.fromkeys(loss, 0.0)
    measures = {name: measure for name, measure in MEASURES.items() if name in wanted}
    whole = {name: measure(source.build(), dataset, asked.seed) for name, measure in measures.items()}
    fan_in = judged(dense, structure) if wanted & AROUND else {}
    for group in structure.prunable:
        for name, measure in measures.items():
            small = cut(source.build(), dataset, group.name, asked.seed)
            start = time.process_time()
            loss[name][group.name] = whole[name] - measure(small, dataset, asked.seed)
            seconds[name] += time.process_time() - start
        if "size" in wanted:
            small = cut(source.build(), dataset, group.name, asked.seed)
            left = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in dense.parameters())
            loss["size"][group.name] = 1 - left
        if "narrow" in wanted:
            loss["narrow"][group.name] = 1 / max(1, round(SHARE * group.width))
        if wanted & AROUND:
            start = time.process_time()
            share = around(source.build(), structure, group.name, dataset)
            for name in wanted & AROUND:
                seconds[name] += time.process_time() - start
                loss[name][group.name] = share * (fan_in[group.name] if name == "around_fan_in" else 1)
        print(group.name, {name: round(values[group.name], 4) for name, values in loss.items()}, flush=True)
    file = asked.results / f"predict_scores{'' if asked.tier == 'small' else f'_{asked.tier}'}.jsonl"
    with file.open("a") as out:
        for name, values in loss.items():
            line = {"model": model, "args": args, "seed": asked.seed, "criterion": "the cut network", "evaluator": name}
            line |= {"share": SHARE, "loss": values, "cpu_seconds": seconds[name], "commit": source_commit()}
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


def judged(dense: nn.Module, structure: Structure) -> dict[str, float]:
    """What the evaluator ``fan_in`` says of every group at ``SHARE``; the criterion does not matter to it."""
    scores = score(dense, example_inputs((3, 32, 32)), "random")
    curves = evaluate_groups(structure, scores, evaluator="fan_in").curves
    return {curve.group: float(curve.loss[max(1, round(SHARE * curve.width))]) for curve in curves}


def around(model: nn.Module, structure: Structure, group: str, dataset: Dataset) -> float:
    """1 - linear CKA of the last features, of the network and of it with one channel of the group left."""
    keep = [np.arange(1 if own.name == group else own.width) for own in structure.prunable]
    silenced = make_plan(model, structure, keep, []).mask(model)
    images = dataset.normalise(dataset.train.images[: 2 * BATCH])
    first, second = (x - x.mean(0) for x in (features(silenced, images), features(model, images)))
    one, other = first @ first.T, second @ second.T
    return 1 - float((one * other).sum() / (one.norm() * other.norm()))


def probe(model: nn.Module, dataset: Dataset, seed: int) -> float:
    """Minus the squared error of ridge regression on images it was not fitted to."""
    train, test = (dataset.normalise(split.images[:IMAGES]) for split in (dataset.train, dataset.test))
    x, z = features(model, train), features(model, test)
    middle, scale = x.mean(0), x.std(0) + 1e-9
    x, z = ((f - middle) / scale for f in (x, z))
    y = F.one_hot(dataset.train.targets[:IMAGES], len(dataset.classes)).double()
    base = y.mean(0)
    kernel = x @ x.T + RIDGE * x.shape[1] * torch.eye(len(x), dtype=torch.float64) / 10
    said = z @ x.T @ torch.linalg.solve(kernel, y - base) + base
    target = F.one_hot(dataset.test.targets[:IMAGES], len(dataset.classes)).double()
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
    loss = F.cross_entropy(model(dataset.normalise(dataset.train.images[:BATCH])), dataset.train.targets[:BATCH])
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
CHEAP, AROUND = {"size", "narrow"}, {"around", "around_fan_in"}


if __name__ == "__main__":
    main()
