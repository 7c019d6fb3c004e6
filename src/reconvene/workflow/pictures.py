"""Pictures of what networks predict, for tasks whose predictions can be seen: image, truth, and each network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from reconvene.data import Dataset, Split
from reconvene.data.source import import_data_extra
from reconvene.tasks import Picture
from reconvene.tasks.base import as_picture
from reconvene.training.assess import predict
from reconvene.utils.files import write_atomic

PICTURES = "pictures.json"
_COUNT = 4
"""Images that are shown, spread over the test split."""
_LARGEST = 160
"""Pixels of a side: larger pictures are thinned out."""

_Rows = list[dict[str, str]]
"""One row an image: PNG files in base64 by the heading of the column."""


def draw_predictions(models: Mapping[str, nn.Module], dataset: Dataset) -> _Rows | None:
    """Image, truth, and the prediction of every model, for a few test images; None where the task shows nothing."""
    places = np.linspace(0, len(dataset.test) - 1, min(_COUNT, len(dataset.test))).astype(int)
    few = Split(dataset.test.images[places], dataset.test.targets[places])
    truths = [dataset.task.draw(target, is_target=True) for target in few.targets]
    if any(truth is None for truth in truths):
        return None
    part = replace(dataset, test=few)
    columns: dict[str, list[Picture | None]] = {"image": [as_picture(image) for image in few.images], "truth": truths}
    for name, model in models.items():
        columns[name] = [dataset.task.draw(prediction) for prediction in predict(model, part)[0]]
    rows: _Rows = []
    for pictures in zip(*columns.values(), strict=True):
        pairs = zip(columns, pictures, strict=True)
        rows.append({heading: _png(picture) for heading, picture in pairs if picture is not None})
    return rows


def write_pictures(folder: Path, rows: _Rows | None) -> None:
    """Put the pictures into the folder of an artifact, in place of those of earlier weights."""
    if rows is None:
        (folder / PICTURES).unlink(missing_ok=True)
    else:
        write_atomic(folder / PICTURES, (json.dumps(rows) + "\n").encode())


def _png(picture: Picture) -> str:
    step = -(-max(picture.shape[:2]) // _LARGEST)
    file = io.BytesIO()
    pillow = import_data_extra("PIL.Image", "pillow", "pictures of a report")
    pillow.fromarray(np.ascontiguousarray(picture[::step, ::step])).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
