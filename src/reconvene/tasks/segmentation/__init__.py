"""Segmentation: a class for every pixel, or objects told apart by distances or by horizontal and vertical maps."""

from reconvene.tasks.segmentation.distance import DistanceInstances
from reconvene.tasks.segmentation.hover import HoverInstances
from reconvene.tasks.segmentation.semantic import Segmentation

__all__ = ["DistanceInstances", "HoverInstances", "Segmentation"]
