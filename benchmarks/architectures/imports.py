"""Imported once by the server that forks a process for each model: pays for every import, and for nothing else."""

from __future__ import annotations

import importlib.util

import torch

import reconvene  # noqa: F401

torch.set_num_threads(1)
for library in ("torchvision", "timm", "transformers"):
    if importlib.util.find_spec(library):
        __import__(library)
