"""Objects by horizontal and vertical maps (HoVer-Net: Graham et al. 2019, 1812.06499)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reconvene.tasks.extras import import_extra
from reconvene.tasks.segmentation.instances import Instances, Map, PixelValues, with_lone_pieces, without_small

EDGE = 0.4
"""Strength from which on an edge parts two objects."""
SIGMA = 1.0
"""Of the derivative that finds edges, in pixels; the paper takes a Sobel filter of 21 pixels at 40x."""
FEWEST_OF_MARKER = 3
"""Pixels of what an object can grow from; the paper takes 10 at 40x."""


class HoverInstances(Instances):
    """Two channels of geometry: how far right, and how far down, of the middle of its object a pixel lies, in [-1, 1].

    Where two objects touch, one ends at 1 and the other begins at -1: the derivatives show an edge. The loss is the
    mean squared error of the maps and, inside objects, of their derivatives.
    """

    name, geometry = "instances-hv", 2

    def encode(self, numbers: Map) -> PixelValues:
        """Columns and rows relative to the middle (the mean) of each object, over the farthest on the same side."""
        ids, places = np.unique(numbers, return_inverse=True)
        places = places.ravel()
        area = np.maximum(np.bincount(places, minlength=len(ids)), 1)
        rows, columns = (axis.ravel().astype(np.float64) for axis in np.indices(numbers.shape))
        maps = []
        for along in (columns, rows):
            offset = along - (np.bincount(places, weights=along, minlength=len(ids)) / area)[places]
            lowest, highest = np.zeros(len(ids)), np.zeros(len(ids))
            np.minimum.at(lowest, places, offset)
            np.maximum.at(highest, places, offset)
            reach = np.where(offset < 0, -lowest[places], highest[places])
            maps.append(np.where(numbers.ravel() > 0, offset / np.maximum(reach, 1e-9), 0.0).reshape(numbers.shape))
        return np.stack(maps).astype(np.float32)

    def geometry_loss(self, output: Tensor, target_maps: Tensor, inside: Tensor) -> Tensor:
        """Mean squared error of the maps, and inside objects of their derivatives."""
        errors = [(_derivative(output, axis) - _derivative(target_maps, axis)).square() for axis in (0, 1)]
        slopes = torch.stack(errors, dim=1) * inside
        return F.mse_loss(output, target_maps) + slopes.sum() / (2 * inside.sum() + 1)

    def decode(self, foreground: PixelValues, geometry: PixelValues) -> Map:
        """A watershed between edges, where the maps fall, from what edges leave of the foreground."""
        ndimage = import_extra("scipy.ndimage", "scipy", "separating objects")
        segmentation = import_extra("skimage.segmentation", "scikit-image", "separating objects")
        inside = without_small(ndimage.label(foreground >= 0.5)[0]) > 0
        falls = [
            1 - _stretched(ndimage.gaussian_filter(_stretched(geometry[i]), SIGMA, order=order))
            for i, order in ((0, (0, 1)), (1, (1, 0)))
        ]
        edge = np.maximum(*falls) * inside
        markers = ndimage.binary_fill_holes(inside & (edge < EDGE))
        markers = ndimage.binary_opening(markers, structure=np.ones((3, 3), dtype=bool))
        markers = with_lone_pieces(without_small(ndimage.label(markers)[0], FEWEST_OF_MARKER), inside)
        depth = -ndimage.gaussian_filter((1 - edge) * inside, 1.0)
        return without_small(segmentation.watershed(depth, markers, mask=inside))


def _derivative(maps: Tensor, channel: int) -> Tensor:
    """Of the horizontal map along columns (0), of the vertical one along rows (1), by a Sobel filter: ``[B, H, W]``."""
    kernel = maps.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernel = kernel if channel == 0 else kernel.T
    padded = F.pad(maps[:, channel : channel + 1], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel[None, None])[:, 0]


def _stretched(values: PixelValues) -> PixelValues:
    """Values on [0, 1]; zeros where they are all alike."""
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / (high - low), dtype=np.float32) if high > low else np.zeros_like(values)
