"""The smallest member of every timm family (one family is one module of timm), and the other networks of timm."""

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
OTHERS = Path(__file__).with_name("timm_others.json")
LARGEST = 20_000_000
"""Parameters of the largest of the other networks, for their time and memory: more add size, and hardly a mechanism."""
SIDES = (64, 96, 112, 128, 160, 192, 224, 240, 256, 288, 320, 336, 384, 448, 512)
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


def other_timm_architectures() -> list[Architecture]:
    """All others up to a size, each on the smallest images it accepts; none where timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return []
    rows: dict[str, tuple[int, int]] = json.loads(OTHERS.read_text(encoding="utf-8"))
    return [Architecture(f"timm/{name}", functools.partial(build, name, side)) for name, (_, side) in rows.items()]


def build(name: str, side: int | None = None) -> Built:
    """The model of this name and a batch of two images (two, since batch norm in train mode refuses one pixel)."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if side is None:
        side = config.input_size[1] if config.input_size[1] <= 160 else OTHER_SIDES.get(name, SIDE)
    resized = config.fixed_input_size and side != config.input_size[1] and name not in OTHER_SIDES
    options: dict[str, Any] = {"img_size": side} if resized else {}
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


def measure_others() -> dict[str, tuple[int, int]]:
    """Parameters of every other network and the smallest side of an image it accepts, on meta. Takes minutes."""
    import timm

    smallest = {name for name, _ in json.loads(SMALLEST.read_text(encoding="utf-8")).values()}
    counts = {name: _parameters(name) for name in timm.list_models() if name not in smallest}
    rows = {name: (count, smallest_side(name)) for name, count in counts.items() if count <= LARGEST}
    return {name: (count, side) for name, (count, side) in rows.items() if side is not None}


def smallest_side(name: str) -> int | None:
    """The least side of an image that the network runs on, from those in ``SIDES`` and its own; None where on none."""
    import timm

    config = timm.get_pretrained_cfg(name)
    side: int = config.input_size[1]
    for tried in [s for s in SIDES if s < side] + [side]:
        options = {"img_size": tried} if config.fixed_input_size and tried != side else {}
        try:
            with without_initialization(), torch.device("meta"), torch.no_grad():
                model = timm.create_model(name, pretrained=False, **options).eval()
                model(torch.zeros(2, config.input_size[0], tried, tried))
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ZeroDivisionError):
            continue
        return tried
    return None


def _parameters(name: str) -> int:
    import timm

    with without_initialization(), torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())


def _write(path: Path, rows: dict[str, tuple[Any, int]]) -> None:
    lines = [f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    sys.stdout.write(f"wrote {path.name}\n")


if __name__ == "__main__":
    _write(SMALLEST, count_smallest())
    _write(OTHERS, measure_others())
