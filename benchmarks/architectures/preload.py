"""Imported once by the server that forks a process for each model: pays for every import and the first analysis."""

from __future__ import annotations

import importlib.util

import torch

from architectures.proving import warm_up

torch.set_num_threads(1)
for library in ("torchvision", "timm", "transformers"):
    if importlib.util.find_spec(library):
        __import__(library)
warm_up()
