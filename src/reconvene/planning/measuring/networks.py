"""Whole networks to check a device profile against: the model itself at even widths, as files for ONNX Runtime.

Layers of a network share caches, and what they take together is not what each took alone: less where everything fits,
more where it does not. A few whole networks tell by how much, from the smallest to the dense one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reconvene import devices
from reconvene.deploy.model_io import own_inputs
from reconvene.deploy.quantisation import stand_in
from reconvene.deploy.runtimes.registry import format_named
from reconvene.deploy.writing import write_model
from reconvene.devices.on_device.sessions import NetworkSpec
from reconvene.errors import ReconveneError, StructureError
from reconvene.structure import Structure
from reconvene.structure.pruned_sizes import settle
from reconvene.structure.replay import replay
from reconvene.surgery import make_plan
from reconvene.utils.progress import note

_SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
_ROUND_TO = 8
# Of a file, so that a bundle can be copied about and a large dense network does not fill the memory.
MOST_BYTES = 256 << 20


def networks_to_time(
    model: nn.Module,
    example_inputs: Any,
    structure: Structure,
    *,
    precision: str = "fp32",
    largest: float = MOST_BYTES,
) -> list[NetworkSpec]:
    """The model at even widths: layers and ONNX file of each, those of ``largest`` bytes at most.

    Layers are ``(number in devices.jobs(devices.sites(structure)), in, out)``. A note says what was left out.
    """
    sites = devices.sites(structure)
    number = {job.spec: count for count, job in enumerate(devices.jobs(sites))}
    channels = devices.ChannelCounts(structure, sites)
    networks: list[NetworkSpec] = []
    for share, widths in _even(structure):
        try:
            file = _file(model, example_inputs, structure, widths, precision)
        except ReconveneError as error:
            note(f"the network at {share:g} of its widths is not timed: {error}")
            continue
        if len(file) > largest:
            note(f"the network at {share:g} of its widths is not timed: its file has {len(file):,} bytes")
            continue
        ends = zip(sites, *channels.at(widths), strict=True)
        networks.append(([[number[site.spec], int(into), int(out)] for site, into, out in ends], file))
    return networks


def cut_groups(model: nn.Module, example_inputs: Any, structure: Structure, widths: NDArray[np.int64]) -> nn.Module:
    """The model with the first channels of every group. Raises StructureError where it does not run so."""
    keep = [np.arange(width) for width in widths]
    rerun = replay(model, example_inputs, structure, keep)
    if rerun.failure is not None:
        raise StructureError(f"it does not run so: {rerun.failure}")
    return make_plan(model, structure, keep, [], scalars=rerun.scalars).apply(model)


def _even(structure: Structure) -> Iterator[tuple[float, NDArray[np.int64]]]:
    """Widths that are the same share of the dense ones everywhere, in multiples of ``_ROUND_TO``."""
    dense, used_widths = structure.widths, set()
    for share in _SHARES:
        rounded = np.clip(np.round(dense * share / _ROUND_TO) * _ROUND_TO, np.minimum(_ROUND_TO, dense), dense)
        widths = settle(structure.balances, rounded.astype(np.int64), dense)
        if tuple(widths) not in used_widths:
            used_widths.add(tuple(widths))
            yield share, widths


def _file(model: nn.Module, inputs: Any, structure: Structure, widths: NDArray[np.int64], precision: str) -> bytes:
    """The network cut to these widths, as an ONNX file. Raises ReconveneError where that does not work."""
    small = cut_groups(model, inputs, structure, widths)
    small_inputs = own_inputs(small, inputs)
    settings = stand_in(small_inputs) if precision == "int8" else None
    with tempfile.TemporaryDirectory(prefix="reconvene-timed-") as folder:
        files = write_model(format_named("onnx"), small, small_inputs, Path(folder) / "model.onnx", settings)
        return b"".join(file.read_bytes() for file in files[:1])
