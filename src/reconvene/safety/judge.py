"""How safe networks and their files are: what they tell of training images, and what makes them answer wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reconvene.data import Dataset, Split
from reconvene.data.trial import try_model
from reconvene.errors import DataError, TrainingError
from reconvene.safety.adversarial import ATTACKS, has_gradients
from reconvene.safety.membership import membership
from reconvene.safety.result import Safety, Trigger
from reconvene.safety.trigger import Answers, Search, find_patch, lift_of, unseen_by_search
from reconvene.structure.fresh import call_afresh
from reconvene.tasks import Targets
from reconvene.utils.module_state import evaluating
from reconvene.utils.progress import stage, track

_COMPARED, _ATTACKED = 1000, 256
"""Most images of a split that membership is asked for; most test images that are attacked."""
_BATCH = 128


def judge_networks(
    networks: Mapping[str, nn.Module],
    dataset: Dataset,
    *,
    files: Mapping[str, tuple[str, Answers]] | None = None,
    seed: int = 0,
) -> dict[str, Safety]:
    """Judge trained classifiers, and the files that were exported from them.

    Attacks use the gradients of a file's network, since files have none; what is counted are the answers of the file.

    Args:
        networks: by name, on the CPU; where one is called ``dense``, its attacked images are tried on the others.
        dataset: what they were trained on.
        files: by name, the network it was written from and how it answers.
        seed: of the choice of images, and of what attacks draw.

    Raises:
        DataError: the data has no labels, one class, or fewer than three test images.
        TrainingError: a network does not run on the images, or has not one finite score for each class.
        MissingExtraError: scikit-learn is absent.
    """
    if dataset.task.targets is not Targets.LABELS:
        raise DataError(
            f"safety is judged of classifiers, and {dataset.name} is for {dataset.task.name}. Leave --safety out"
        )
    if len(dataset.classes) < 2:
        raise DataError(f"safety is judged with two classes or more, and {dataset.name} has one. Leave --safety out")
    for name, network in networks.items():
        try_model(network, dataset, role=name)
    answers = {name: answers_of(network, dataset) for name, network in networks.items()}
    subjects = {name: (name, answer) for name, answer in answers.items()} | dict(files or {})
    test, train = _some(dataset.test, _ATTACKED, seed), _some(dataset.train, _COMPARED, seed)
    unseen = _some(dataset.test, _COMPARED, seed)
    judged = unseen_by_search(dataset.test, _ATTACKED, seed)
    attacked: dict[str, dict[str, Tensor]] = {}
    patches: dict[str, Search] = {}
    for name, network in networks.items():
        attacked[name] = {
            attack.name: attack.images(network, test.images, test.targets, dataset, seed=seed)
            for attack in track(ATTACKS, f"attacking {name}", total=len(ATTACKS))
        }
        with stage(f"looking for a trigger in {name}"):
            patches[name] = find_patch(network, answers[name], dataset, seed=seed)
    of_dense = attacked.get("dense", {})
    fooled = _fooled(answers["dense"], of_dense, test) if of_dense else {}
    result = {}
    for name, (variant, answer) in track(subjects.items(), "judging answers", total=len(subjects)):
        right = {attack: _right(answer, images, test.targets) for attack, images in attacked[variant].items()}
        result[name] = Safety(
            count=len(test),
            accuracy=float(_right(answer, test.images, test.targets).double().mean()),
            membership=membership(_losses(answer, train), _losses(answer, unseen), seed=seed),
            attacked={attack: float(hits.double().mean()) for attack, hits in right.items()},
            transferred={} if variant == "dense" else _transferred(answer, of_dense, fooled, test),
            gradients=has_gradients(networks[variant], test.images, test.targets, dataset),
            triggers={origin: _tried(search, answer, judged, dataset) for origin, search in patches.items()},
        )
    return result


def answers_of(network: nn.Module, dataset: Dataset) -> Answers:
    """How a network in eval mode answers."""

    def scores(images: Tensor) -> Tensor:
        return torch.as_tensor(call_afresh(network, dataset.normalise(images)))

    def answer(images: Tensor) -> Tensor:
        with evaluating(network), torch.no_grad():
            return batched(scores, images)

    return answer


def batched(answer: Answers, images: Tensor) -> Tensor:
    """The scores of all images, a batch at a time, float32 on the CPU."""
    return torch.cat([answer(images[i : i + _BATCH]).float().cpu() for i in range(0, len(images), _BATCH)])


def _some(split: Split, count: int, seed: int) -> Split:
    chosen = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).permutation(len(split))[:count])
    return Split(split.images[chosen], split.targets[chosen])


def _losses(answer: Answers, split: Split) -> Any:
    losses = F.cross_entropy(answer(split.images).double(), split.targets, reduction="none")
    if not bool(losses.isfinite().all()):
        raise TrainingError("safety is judged of scores that are finite, and those of some images are not")
    return losses.numpy()


def _right(answer: Answers, images: Tensor, labels: Tensor) -> Tensor:
    return answer(images).argmax(1) == labels


def _fooled(answer: Answers, attacked: Mapping[str, Tensor], test: Split) -> dict[str, Tensor]:
    """Which images the dense network has right before an attack and wrong after it, bool ``[N]``, by attack."""
    before = _right(answer, test.images, test.targets)
    return {name: before & ~_right(answer, images, test.targets) for name, images in attacked.items()}


def _transferred(
    answer: Answers, attacked: Mapping[str, Tensor], fooled: Mapping[str, Tensor], test: Split
) -> dict[str, float]:
    before = _right(answer, test.images, test.targets)
    shares = {}
    for name, images in attacked.items():
        both = fooled[name] & before
        if bool(both.any()):
            shares[name] = float((~_right(answer, images[both], test.targets[both])).double().mean())
    return shares


def _tried(search: Search, answer: Answers, test: Split, dataset: Dataset) -> Trigger:
    patch = search.patch
    clean = answer(test.images).argmax(1)
    success = patch.success(answer, test.images, clean)
    tried = replace(search, success=success, lift=lift_of(clean, test.targets))
    place = (patch.row, patch.column, patch.side)
    verdict = (tried.is_trigger, tried.is_comparable, tried.is_accurate)
    return Trigger(dataset.classes[patch.target], *place, success, *verdict)
