"""Every torchvision classifier, segmentation model and detector."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from architectures.entry import Architecture, Built, fill, image, without_initialization

LITTLE_CLASSIFIER = 96
SIZES = {"inception_v3": 299, "googlenet": 96, "maxvit_t": 224, "vit_h_14": 56, "vit_b_16": 64, "vit_b_32": 96}
SIZES |= {"vit_l_16": 64, "vit_l_32": 96}


def torchvision_architectures() -> list[Architecture]:
    """Classifiers, segmentation and detection; none where torchvision is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        return []
    from torchvision import models

    classifiers = models.list_models(module=models)
    masks = models.list_models(module=models.segmentation)
    boxes = models.list_models(module=models.detection)
    return [
        *(Architecture(f"torchvision/{n}", functools.partial(classifier, n)) for n in classifiers),
        *(Architecture(f"torchvision/{n}", functools.partial(segmenter, n)) for n in masks),
        *(
            Architecture(
                f"torchvision/{n}",
                functools.partial(detector, n),
                loss=functools.partial(detection_loss, name=n),
                compare=before_choosing,
            )
            for n in boxes
        ),
    ]


def classifier(name: str) -> Built:
    """A classifier and two small images."""
    from torchvision import models

    size = SIZES.get(name, LITTLE_CLASSIFIER)
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if name.startswith("vit_"):
        options["image_size"] = size
    with without_initialization():
        model = models.get_model(name, weights=None, **options)
    return fill(model), image(2, 3, size, size)


def segmenter(name: str) -> Built:
    """A segmentation model with its auxiliary head where it has one."""
    from torchvision import models

    options: dict[str, Any] = {} if name.startswith("lraspp") else {"aux_loss": True}
    with without_initialization():
        model = models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **options)
    return fill(model), image(2, 3, 96, 96)


def detector(name: str) -> Built:
    """A detector that looks at two images of its least size."""
    from torchvision import models

    options: dict[str, Any] = {} if name.startswith("ssd") else {"min_size": 128, "max_size": 192}
    with without_initialization():
        model = models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **options)
    return fill(model), ([image(3, 128, 128), image(3, 128, 160, seed=1)],)


def detection_loss(model: nn.Module, inputs: Any, *, name: str) -> Tensor:
    """The sum of the model's own losses, on one made-up object in each image."""
    targets = []
    for picture in inputs[0]:
        target: dict[str, Tensor] = {
            "boxes": torch.tensor([[10.0, 12.0, 90.0, 100.0]], dtype=picture.dtype),
            "labels": torch.tensor([1]),
        }
        if name.startswith("mask"):
            target["masks"] = torch.ones(1, *picture.shape[1:], dtype=torch.uint8)
        if name.startswith("keypoint"):
            target["keypoints"] = torch.tensor([[[50.0, 50.0, 1.0]] * 17], dtype=torch.float32)
        targets.append(target)
    losses: dict[str, Tensor] = model(inputs[0], targets)
    return torch.stack([loss for loss in losses.values()]).sum()


def before_choosing(model: nn.Module, inputs: Any) -> Any:
    """What a detector computes before boxes are chosen (scores and boxes at every place), and what it chooses."""
    found: list[Any] = []
    dense = model.rpn.head if hasattr(model, "rpn") else model.head
    handle = dense.register_forward_hook(lambda _, __, output: found.append(output))
    try:
        found.append(model(*inputs))
    finally:
        handle.remove()
    return found
