"""The smallest member of every timm family (one family is one module of timm)."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch

from architectures.entry import Architecture, Built, fill, image, without_initialization

SMALLEST = Path(__file__).with_name("timm_smallest.json")
# Images of this side, so that double precision stays affordable: every mechanism of a network is there at any size.
SIDE = 128
OTHER_SIDES = {"crossvit_tiny_240": 240, "halonet_h1": 256, "efficientformer_l1": 224, "deepseek_vit_412m": 112}


def timm_architectures() -> list[Architecture]:
    """One per family; none where timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return []
    families: dict[str, tuple[str, int]] = json.loads(SMALLEST.read_text(encoding="utf-8"))
    smallest_first = sorted(families.values(), key=lambda row: row[1])  # a broken engine shows early
    return [Architecture(f"timm/{name}", functools.partial(build, name)) for name, _ in smallest_first]


def build(name: str) -> Built:
    """The model of this name and a batch of two images (two, since batch norm in train mode refuses one pixel)."""
    import timm

    config = timm.get_pretrained_cfg(name)
    side = config.input_size[1] if config.input_size[1] <= 160 else OTHER_SIDES.get(name, SIDE)
    options: dict[str, Any] = {"img_size": side} if config.fixed_input_size and side == SIDE else {}
    if not config.num_classes:  # what a network returns stays whole: give those that return features a head
        options["num_classes"] = 10
    with without_initialization():
        model = timm.create_model(name, pretrained=False, **options)
    return fill(model), image(2, config.input_size[0], side, side)


def count_smallest() -> dict[str, tuple[str, int]]:
    """The smallest model of every family by parameters, counted on the meta device. Takes minutes."""
    import timm

    out = {}
    for family in timm.list_modules():
        counts = {name: _parameters(name) for name in timm.list_models(module=family)}
        name = min(counts, key=lambda name: (counts[name], name))
        out[family] = name, counts[name]
    return out


def _parameters(name: str) -> int:
    import timm

    with without_initialization(), torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())


if __name__ == "__main__":
    rows = [f" {json.dumps(family)}: {json.dumps(row)}" for family, row in count_smallest().items()]
    SMALLEST.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    sys.stdout.write(f"wrote {SMALLEST.name}\n")
