"""Membership inference: whether a network tells which images it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reconvene.data.source import import_data_extra
from reconvene.utils.schema import Count, Share, opened

Losses = NDArray[np.float64]
_FALSE_ALARMS = 0.01
_SHUFFLES = 20


@opened
@dataclass(frozen=True)
class Membership:
    """A loss-threshold attack (1709.01604): an image with a low loss is called a training image.

    Attributes:
        auc: area under the curve of true over false alarms; .5 is chance, 1 names every training image.
        tpr: share of the training images that are named where 1 % of the other images are named too (2112.03570).
        shuffled_auc: ``auc`` where membership is drawn at random, the mean of 20 draws: the control, near .5.
        members: training images, and ``others``: test images, that were compared.
    """

    auc: Share
    tpr: Share
    shuffled_auc: Share
    members: Count
    others: Count


def membership(members: Losses, others: Losses, *, seed: int = 0) -> Membership:
    """Attack a network by its losses on training images ``[M]`` and on images that it never saw ``[N]``.

    Args:
        members: the loss of every training image.
        others: the loss of every other image, of the same source.
        seed: of the control.

    Raises:
        MissingExtraError: scikit-learn is absent.

    >>> import numpy as np
    >>> result = membership(np.array([0.0, 0.1, 0.2]), np.array([0.3, 0.4]))
    >>> result.auc, result.tpr
    (1.0, 1.0)
    """
    metrics = import_data_extra("sklearn.metrics", "scikit-learn", "membership inference")
    scores = -np.concatenate([members, others])
    is_member = np.arange(len(scores)) < len(members)
    false_alarms, true_alarms, _ = metrics.roc_curve(is_member, scores, drop_intermediate=False)
    generator = np.random.Generator(np.random.PCG64(seed))
    shuffled = [float(metrics.roc_auc_score(generator.permutation(is_member), scores)) for _ in range(_SHUFFLES)]
    return Membership(
        auc=float(metrics.roc_auc_score(is_member, scores)),
        tpr=float(true_alarms[false_alarms <= _FALSE_ALARMS].max()),
        shuffled_auc=float(np.mean(shuffled)),
        members=len(members),
        others=len(others),
    )
