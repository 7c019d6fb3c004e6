"""The latency of a recipe's network on the device that its budget is about, by the profile of that device."""

from __future__ import annotations

from torch import nn

from reconvene.devices.latency_cost import DeviceLatency
from reconvene.planning.target import profile_in
from reconvene.structure import analyse
from reconvene.workflow.compression.stage import StageWork


def seconds_on(device: str, model: nn.Module, work: StageWork) -> float:
    """Seconds of one inference of a network in eval mode, in the precision that the recipe ends with.

    Raises DeviceError for an operation that the profile lacks.
    """
    structure = analyse(model, work.inputs, trial=False)
    profile = profile_in(device, "int8" if work.last_precision == "int8" else None)
    return DeviceLatency(profile).bind(structure, None).at(structure.widths)
