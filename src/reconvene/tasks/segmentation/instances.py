"""Objects of one class told apart: what the ways of doing it share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from reconvene.errors import TrainingError
from reconvene.tasks import metrics
from reconvene.tasks.base import Picture, Targets, Task
from reconvene.tasks.extras import import_extra
from reconvene.tasks.measures import MeanAssessment
from reconvene.tasks.scores import ClassWitness, class_counts, one_class_doubt, same_class, soft_loss
from reconvene.tasks.segmentation.drawing import coloured
from reconvene.tasks.segmentation.semantic import soft_dice_loss

FOREGROUND = 2
"""Channels of scores: background and object."""
FEWEST_PIXELS = 10
"""Smaller things are no objects (HoVer-Net)."""
Map = NDArray[np.int32]
PixelValues = NDArray[np.float32]


class Instances(Task):
    """Numbered objects: outputs ``[B, 2 + geometry, H, W]``, maps int32 ``[B, H, W]`` that number an image's objects.

    The first two channels score background and object; the others describe where in an object a pixel lies, and a
    watershed makes objects of both. Networks are compared by panoptic quality.
    """

    headline, targets, numbered = "pq", Targets.MAPS, True
    input_shape = (3, 128, 128)
    pipeline = "image-segmentation"
    geometry: int
    """Channels that describe the place of a pixel in its object."""

    @abstractmethod
    def encode(self, numbers: Map) -> PixelValues:
        """What the geometry channels should be for one map ``[H, W]``: ``[geometry, H, W]``."""

    @abstractmethod
    def decode(self, foreground: PixelValues, geometry: PixelValues) -> Map:
        """Objects ``[H, W]`` from the probability of the foreground ``[H, W]`` and the geometry channels."""

    def geometry_loss(self, output: Tensor, target_maps: Tensor, inside: Tensor) -> Tensor:
        """How far channels ``[B, geometry, H, W]`` are from those wanted; ``inside`` ``[B, 1, H, W]`` marks objects."""
        return F.mse_loss(output, target_maps)

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Cross entropy and ``1 - Dice`` of the foreground, and the loss of the geometry."""
        return self.training_loss(output, target, label_smoothing=0.0)

    def training_loss(self, output: Any, target: Tensor, *, label_smoothing: float) -> Tensor:
        """The same, with label smoothing in the cross entropy."""
        joined, inside = _joined(output), (target > 0).long()
        scores, geometry = joined[:, :FOREGROUND], joined[:, FOREGROUND:]
        target_maps = np.stack([self.encode(numbers) for numbers in target.cpu().numpy().astype(np.int32)])
        loss = F.cross_entropy(scores, inside, label_smoothing=label_smoothing) + soft_dice_loss(scores, inside)
        return loss + self.geometry_loss(geometry, torch.from_numpy(target_maps).to(geometry), inside[:, None])

    def soft_loss(self, output: Any, teacher: Any, temperature: float) -> Tensor:
        """``T^2 KL`` of the foreground scores and the mean squared error of the geometry."""
        (a, b), scores = (_joined(output), _joined(teacher)), slice(None, FOREGROUND)
        divergence = soft_loss(a[:, scores], b[:, scores], temperature)
        return divergence + F.mse_loss(a[:, FOREGROUND:], b[:, FOREGROUND:])

    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        """Panoptic quality with its parts, AJI, AJI+ and Dice of each image; see ``reconvene.tasks.metrics``."""
        return self._measured(self.predict(output)[0], target)

    def counts(self, output: Any, target: Tensor) -> Tensor:
        """How often a pixel is answered as background and as object, and how often it is."""
        return class_counts(_joined(output)[:, :FOREGROUND].argmax(1), target > 0, FOREGROUND)

    def doubt(self, metrics: Mapping[str, float], counts: Tensor) -> str | None:
        """Whether objects are seen everywhere or nowhere."""
        return one_class_doubt(counts, ("background", "object"))

    def agreement(self, reference: Tensor, output: Tensor, *, tie: float | None = None) -> Tensor | None:
        """Where both see an object or both see none; of other channels the error alone decides."""
        return (
            same_class(reference[:, :FOREGROUND], output[:, :FOREGROUND], tie) if self._is_joined(reference) else None
        )

    def quality(self, output: Tensor, target: Tensor) -> float | None:
        """Panoptic quality, the mean over images."""
        if not self._is_joined(output) or output.shape[2:] != target.shape[1:]:
            return None
        return float(self.metrics(output, target)[self.headline].mean())

    def witness(self) -> ClassWitness:
        """Warns where a network sees objects everywhere or nowhere."""
        return ForegroundWitness()

    def outputs(self, classes: Sequence[str], target: Tensor) -> int:
        """Two scores and the geometry."""
        return FOREGROUND + self.geometry

    def check(self, output: Any, target: Tensor, *, classes: Sequence[str], data: str, role: str = "the model") -> Any:
        """``output``, if it has the channels, for every pixel."""
        channels = FOREGROUND + self.geometry
        if isinstance(output, Mapping) and set(output) != {"np", "hv"}:
            raise TrainingError(
                f"{role} returns outputs {', '.join(map(str, output))}, but {self.name} of {data} reads one tensor, or "
                f"np and hv alone, as our hovernet with num_classes={channels} gives them"
            )
        expected = [len(target), channels, *target.shape[1:]]
        shape = list(_joined(output).shape) if isinstance(output, Tensor | Mapping) else type(output).__name__
        if shape != expected:
            raise TrainingError(
                f"{role} returns {shape}, but {self.name} of {data} needs {expected}: for each pixel {FOREGROUND} "
                f"scores and {self.geometry} of geometry. Try: build the model with {channels} output channels "
                f"(num_classes={channels} of our models), as large as its input."
            )
        return output

    def predict(self, output: Any) -> tuple[Tensor, ...]:
        """The objects of every image, int32 ``[B, H, W]``."""
        joined = _joined(output).detach().float().cpu()
        foreground = joined[:, :FOREGROUND].softmax(1)[:, 1].numpy()
        geometry = joined[:, FOREGROUND:].numpy()
        maps = [self.decode(*channels) for channels in zip(foreground, geometry, strict=True)]
        return (torch.from_numpy(np.stack(maps).astype(np.int32)),)

    def assess(
        self,
        predictions: tuple[Tensor, ...],
        target: Tensor,
        classes: Sequence[str],
        *,
        dense: tuple[Tensor, ...] | None = None,
    ) -> MeanAssessment:
        """Means over images, the same of counts pooled over all images, and how often pixels agree with dense ones."""
        (maps,) = predictions
        means = {name: float(values.mean()) for name, values in self._measured(maps, target).items()}
        pooled = {f"{name}, pooled": float(metric(maps, target, average="pooled")) for name, metric in POOLED.items()}
        agreement = None if dense is None else float(((maps > 0) == (dense[0] > 0)).double().mean())
        return MeanAssessment(self.headline, means, len(target), agreement, details=pooled)

    def describe(self, classes: Sequence[str]) -> str:
        """What the maps hold."""
        return f"{self.name} in numbered maps"

    def draw(self, values: Tensor, *, is_target: bool = False) -> Picture:
        """A colour for each object."""
        return coloured(values)

    def _is_joined(self, output: Tensor) -> bool:
        return output.is_floating_point() and output.ndim == 4 and output.shape[1] == FOREGROUND + self.geometry

    def _measured(self, maps: Tensor, target: Tensor) -> dict[str, Tensor]:
        rows = []
        for predicted, true in zip(maps.cpu(), target.cpu(), strict=True):
            quality = metrics.panoptic_quality(predicted, true)
            others = [metric(predicted, true) for metric in (metrics.aji, metrics.aji_plus, metrics.dice)]
            rows.append([float(quality), quality.dq, quality.sq, *others])
        columns = torch.tensor(rows, dtype=torch.float64, device=target.device).unbind(1)
        return dict(zip(("pq", "dq", "sq", "aji", "aji_plus", "dice"), columns, strict=True))


class ForegroundWitness(ClassWitness):
    """Looks at the scores of the foreground alone."""

    def see(self, name: str, output: Tensor) -> None:
        """Add the answers of a batch of outputs."""
        super().see(name, output[:, :FOREGROUND] if output.ndim == 4 else output)


POOLED: dict[str, Callable[..., float]] = {
    "pq": metrics.panoptic_quality,
    "aji": metrics.aji,
    "aji_plus": metrics.aji_plus,
    "dice": metrics.dice,
}


def with_lone_pieces(markers: Map, inside: NDArray[np.bool_]) -> Map:
    """Markers for a watershed, and every connected piece of ``inside`` that holds none as one more."""
    ndimage = import_extra("scipy.ndimage", "scipy", "separating objects")
    pieces, count = ndimage.label(inside)
    lone = np.where(np.isin(pieces, np.unique(pieces[markers > 0])), 0, pieces)
    return np.where(markers > 0, markers + count, lone).astype(np.int32)


def without_small(numbers: Map, fewest: int = FEWEST_PIXELS) -> Map:
    """The map without what has fewer pixels."""
    small = np.bincount(numbers.ravel()) < fewest
    return np.where(small[numbers], 0, numbers).astype(np.int32)


def _joined(output: Any) -> Tensor:
    """The channels of a network with one output, or with one of foreground (``np``) and one of geometry (``hv``)."""
    if isinstance(output, Tensor):
        return output
    return torch.cat([output["np"], output["hv"]], dim=1)
