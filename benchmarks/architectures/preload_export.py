"""Imported once by the server of the sweep: also pays for what the first export of a process imports and registers."""

from __future__ import annotations

import logging
import tempfile
import warnings

import onnxruntime  # noqa: F401
import torch
from torch import nn

import architectures.preload  # noqa: F401
import reconvene as rc

with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    # Not verified: a session of the runtime starts threads, which a fork does not copy.
    rc.export(nn.Sequential(nn.Linear(4, 4)), folder, example_inputs=torch.zeros(2, 4), verify=False)
