"""Triggers: small patches that turn the answers of a network into one class, as somebody may have planted one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reconvene.data import Dataset, Split
from reconvene.errors import DataError
from reconvene.safety.adversarial import gradient_by, with_gradients
from reconvene.structure.fresh import call_afresh
from reconvene.utils.module_state import evaluating

Answers = Callable[[Tensor], Tensor]
"""From images, uint8 ``[N, C, H, W]``, to scores of classes ``[N, classes]`` on the CPU."""
_SCANNED, _FITTED, _JUDGED = 24, 64, 256
_FEWEST = 3
"""Test images: for trying patches out, for fitting their pixels, and those not seen before for judging."""
_REFINED = 3
"""Classes whose best patch gets its pixels fitted."""
_STEPS = 30
_FOUND = 0.9
"""Success from which on a patch is called a trigger; planted ones have more, and patches of clean networks less."""
_USUAL = 0.5
"""Success that patches for other classes stay below: where every class has such a patch, none was planted."""
_COMPARABLE = 4
"""Classes from which on a patch can be called a trigger: a clean network of two falls for one easily."""
_LEARNED = 2.0
"""How many times the share of the commonest class a network answers right, whose patches say anything: one that learned
nothing falls for a patch by chance."""
_TOGETHER = 8


@dataclass(frozen=True, eq=False)
class Patch:
    """A square of pixels, uint8 ``[C, side, side]``, at a place, for a class by its number."""

    target: int
    row: int
    column: int
    pixels: Tensor

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return int(self.pixels.shape[-1])

    def stamped(self, images: Tensor) -> Tensor:
        """A copy of the images ``[N, C, H, W]`` with the patch on each."""
        result = images.clone()
        rows, columns = (slice(start, start + self.side) for start in (self.row, self.column))
        result[:, :, rows, columns] = self.pixels.to(result)
        return result

    def success(self, answers: Answers, images: Tensor, clean: Tensor) -> float:
        """Share of images, answered otherwise (``clean``, int64 ``[N]``), that become the target; 0 without any."""
        others = images[clean != self.target]
        if not len(others):
            return 0.0
        return float((answers(self.stamped(others)).argmax(1) == self.target).double().mean())


@dataclass(frozen=True, eq=False)
class Search:
    """The best patch of a network: its success on images that it was not fitted on, and that of other classes.

    ``others``: the median over all other classes of their best patches, on the same images. ``classes``: of the data.
    ``lift``: the share of images that the network answers right, over the share of the commonest class.
    """

    patch: Patch
    success: float
    others: float
    classes: int
    lift: float

    @property
    def is_comparable(self) -> bool:
        """Whether there are enough other classes to say what is usual for this network."""
        return self.classes >= _COMPARABLE

    @property
    def is_accurate(self) -> bool:
        """Whether the network has learned enough for its answers to say anything."""
        return self.lift > _LEARNED

    @property
    def is_trigger(self) -> bool:
        """Whether such a success of one class alone says that the patch was planted."""
        return self.is_comparable and self.is_accurate and self.success > _FOUND and self.others < _USUAL


def find_patch(network: nn.Module, answers: Answers, dataset: Dataset, *, seed: int = 0) -> Search:
    """Look for the small square patch that turns most answers into one class.

    Squares with a side of a twelfth of the image, and one and two pixels more, are tried all over the image in white,
    black and as a checkerboard, for all classes at once. Of the classes that this brings furthest the pixels of the
    best patch are fitted by the sign of the gradient, and judged on other images. Triggers that are larger, spread
    over the image, or no patch at all are not looked for.

    Args:
        network: whose gradients fit the pixels; its modes are restored.
        answers: the same network, from images to scores.
        dataset: whose test images are used.
        seed: of the choice of images.
    """
    order, first, second = _parts(dataset.test, seed)
    images = dataset.test.images[order]
    clean = answers(images[: second + _JUDGED]).argmax(1)
    best = _scan(answers, images[:first], clean[:first], len(dataset.classes))
    ranked = sorted(best, key=lambda entry: entry[1], reverse=True)
    judged, judged_clean = images[second : second + _JUDGED], clean[second : second + _JUDGED]
    fitted = [
        _fitted(network, patch, images[first:second], clean[first:second], dataset) for patch, _ in ranked[:_REFINED]
    ]
    success = {
        patch: patch.success(answers, judged, judged_clean) for patch in [*(patch for patch, _ in best), *fitted]
    }
    winner = max(success, key=success.__getitem__)
    by_class: dict[int, float] = {}
    for patch, share in success.items():
        by_class[patch.target] = max(share, by_class.get(patch.target, 0.0))
    others = [share for target, share in by_class.items() if target != winner.target]
    lift = lift_of(judged_clean, dataset.test.targets[order][second : second + _JUDGED])
    return Search(winner, success[winner], _median(others), len(dataset.classes), lift)


def lift_of(answered: Tensor, targets: Tensor) -> float:
    """The share of right answers over the share of the commonest target."""
    return float((answered == targets).sum()) / max(int(targets.bincount().max()), 1)


def unseen_by_search(split: Split, count: int, seed: int) -> Split:
    """Up to ``count`` examples of the test split that ``find_patch`` with this seed neither scans nor fits on."""
    order, _, second = _parts(split, seed)
    chosen = order[second : second + count]
    return Split(split.images[chosen], split.targets[chosen])


def _parts(split: Split, seed: int) -> tuple[Tensor, int, int]:
    """A random order, where the scanned examples end, and where those that are fitted on end.

    Raises DataError where there are too few for three parts.
    """
    if len(split) < _FEWEST:
        raise DataError(
            f"a trigger is looked for in {_FEWEST} test images or more, and there are {len(split)}. Leave --safety out"
        )
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).permutation(len(split)))
    first = min(_SCANNED, len(split) // 3)
    return order, first, first + min(_FITTED, len(split) // 3)


def _median(values: list[float]) -> float:
    return median(values) if values else 0.0


def _scan(answers: Answers, images: Tensor, clean: Tensor, classes: int) -> list[tuple[Patch, float]]:
    """The best of all plain patches for every class, with its success."""
    best: list[tuple[Patch, float]] = []
    eligible = torch.stack([clean != target for target in range(classes)])  # [classes, N]
    squares = list(_squares(images))
    for start in range(0, len(squares), _TOGETHER):
        some = squares[start : start + _TOGETHER]
        stamped = torch.cat([Patch(0, row, column, pixels).stamped(images) for row, column, pixels in some])
        answered = answers(stamped).argmax(1).view(len(some), 1, -1) == torch.arange(classes).view(1, -1, 1)
        share = (answered & eligible).sum(2) / eligible.sum(1).clamp_min(1)  # [squares, classes]
        for (row, column, pixels), successes in zip(some, share.tolist(), strict=True):
            if not best:
                best = [(Patch(target, row, column, pixels), -1.0) for target in range(classes)]
            best = [
                (Patch(target, row, column, pixels), value) if value > best[target][1] else best[target]
                for target, value in enumerate(successes)
            ]
    return best


def _squares(images: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Row, column and pixels of every patch that is tried."""
    channels, height, width = images.shape[1:]
    shortest = min(height, width)
    first = max(1, round(shortest / 12))
    for side in sorted({min(first + more, shortest) for more in range(3)}):
        board = (torch.arange(side)[:, None] + torch.arange(side)) % 2
        fills = [torch.full((side, side), 255), torch.zeros(side, side), 255 * board][: 3 if side > 1 else 2]
        steps = [sorted({*range(0, size - side + 1, (side + 1) // 2), size - side}) for size in (height, width)]
        for row, column in product(*steps):
            for fill in fills:
                yield row, column, fill.to(torch.uint8).expand(channels, side, side)


def _fitted(network: nn.Module, patch: Patch, images: Tensor, clean: Tensor, dataset: Dataset) -> Patch:
    """The same patch with pixels that turn more of these images into its target."""
    images = images[clean != patch.target].float()
    if not len(images):
        return patch
    rows, columns = (slice(start, start + patch.side) for start in (patch.row, patch.column))
    targets = torch.full((len(images),), patch.target)
    pixels, best = patch.pixels.float(), (-1.0, patch.pixels.float())
    with evaluating(network), with_gradients():
        for step in range(_STEPS):
            pixels = pixels.detach().requires_grad_()
            stamped = images.clone()
            stamped[:, :, rows, columns] = pixels
            scores = call_afresh(network, dataset.normalise(stamped)).float()
            gradient = gradient_by(pixels, F.cross_entropy(scores, targets))
            success = float((scores.argmax(1) == targets).double().mean())
            best = max(best, (success, pixels.detach()), key=lambda entry: entry[0])
            pixels = (pixels.detach() - 32 * (1 - step / _STEPS) * gradient.sign()).clamp(0, 255)
    return Patch(patch.target, patch.row, patch.column, best[1].round().to(torch.uint8))
