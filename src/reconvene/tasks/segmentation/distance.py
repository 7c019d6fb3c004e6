"""Objects by their distance maps: a pixel says how deep in its object it lies."""

from __future__ import annotations

import numpy as np

from reconvene.tasks.extras import import_extra
from reconvene.tasks.segmentation.instances import Instances, Map, PixelValues, with_lone_pieces, without_small

CORE = 0.5
"""Depth from which on pixels are the core of an object: touching objects have cores that do not touch."""

FEWEST_OF_CORE = 3
"""Pixels of a core; fewer are noise."""


class DistanceInstances(Instances):
    """One channel of geometry: the distance to the edge of the object, 1 where it is largest in that object.

    Objects grow from cores, connected pixels deeper than half, by a watershed on the depth.
    """

    name, geometry = "instances", 1

    def encode(self, numbers: Map) -> PixelValues:
        """Euclidean distance to what is not the same object, over its largest value in the object."""
        ndimage = import_extra("scipy.ndimage", "scipy", "distance maps")
        inner = _inner(numbers)
        # where one object is all there is, nothing is far or near
        depth = (numbers > 0) + (0.0 if inner.all() else ndimage.distance_transform_edt(inner))
        ids, places = np.unique(numbers, return_inverse=True)
        deepest = np.zeros(len(ids))
        np.maximum.at(deepest, places.ravel(), depth.ravel())
        return np.asarray(depth / np.maximum(deepest, 1)[places.reshape(numbers.shape)], dtype=np.float32)[None]

    def decode(self, foreground: PixelValues, geometry: PixelValues) -> Map:
        """A watershed on the depth, from the cores, within the foreground."""
        ndimage = import_extra("scipy.ndimage", "scipy", "separating objects")
        segmentation = import_extra("skimage.segmentation", "scikit-image", "separating objects")
        inside, depth = foreground >= 0.5, geometry[0]
        cores = without_small(ndimage.label(inside & (depth > CORE))[0], FEWEST_OF_CORE)
        objects = segmentation.watershed(-depth, with_lone_pieces(cores, inside), mask=inside)
        return without_small(objects)


def _inner(numbers: Map) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Pixels of objects whose four neighbours are of the same object; the edge of the image is no edge of an object."""
    inner = numbers > 0
    for axis in (0, 1):
        same = np.diff(numbers, axis=axis) == 0
        ends = [(0, 1) if other == axis else (0, 0) for other in (0, 1)]
        starts = [(1, 0) if other == axis else (0, 0) for other in (0, 1)]
        inner &= np.pad(same, ends, constant_values=True) & np.pad(same, starts, constant_values=True)
    return np.asarray(inner)
