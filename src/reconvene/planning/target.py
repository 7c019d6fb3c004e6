"""What a budget is about: the device, the runtime, the file formats and the precision that answer to its costs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from reconvene import devices
from reconvene.costs import Budget, Cost, cost_file, cost_named, listed_costs
from reconvene.deploy.quantisation import PRECISIONS
from reconvene.deploy.runtimes.registry import memory_planners
from reconvene.devices import Profile
from reconvene.devices.latency_cost import DeviceLatency
from reconvene.devices.store import named_folder
from reconvene.errors import DeviceError, UnknownNameError
from reconvene.planning.measuring.npu_costs import npu_costs
from reconvene.planning.measuring.runtime_costs import ExportedSize, MachineLatency, RuntimeMemory
from reconvene.planning.session import Plans

ROUND_TO = 8
"""Widths become multiples of this where neither the caller nor the device asks for another step."""
DeviceLike = str | Path | Profile


@dataclass(frozen=True)
class TargetCosts:
    """The cost that answers to each name of a budget, and the step in width that suits the device."""

    costs: dict[str, Cost]
    round_to: int
    refine: bool
    """Whether steps may become finer: no device asks for this one."""


@dataclass(frozen=True)
class Target:
    """What budgets on latency, size and memory are about.

    Attributes:
        device: a profile, its file or its name, or ``here``; ``None``: this machine where the budget has a latency.
        size_of: formats whose exported files a budget on size is about; none: ``model.safetensors``.
        memory_of: runtime whose plan of activations a budget on peak memory is about; ``None``: PyTorch's own.
        precision: of the network that these are about; ``None``: that of the device's profile, else ``fp32``.
        chip: name or path of a cost file, whose costs the plan tells and budgets can limit.
    """

    device: DeviceLike | None = None
    size_of: tuple[str, ...] = ()
    memory_of: str | None = None
    precision: str | None = None
    chip: str | Path | None = None

    @property
    def identity(self) -> dict[str, str]:
        """The chip (``target``) and the ``device``, as text: files and profiles by a digest of their content."""
        return {
            "target": content_digest(self.chip) or str(self.chip),
            "device": content_digest(self.device) or str(self.device),
        }

    @contextmanager
    def costs(self, planner: Plans, budget: Budget) -> Iterator[TargetCosts]:
        """The costs of a budget on this target; what they need for measuring is given back at the end.

        Raises UnknownNameError for a precision, a runtime or a chip that there is not, DeviceError for a profile,
        CostFileError for a cost file.
        """
        if self.precision not in (None, *PRECISIONS):
            raise UnknownNameError("precision", self.precision, PRECISIONS)
        if self.memory_of not in (None, *memory_planners()):
            raise UnknownNameError("plan of memory", str(self.memory_of), memory_planners())
        profile = None
        chip = {} if self.chip is None else chip_costs(self.chip)
        # The latency of a cost file, such as a roofline, is about that chip and not about this machine.
        if ("latency" in budget and "latency" not in chip) or self.device is not None:
            profile = resolve_profile(planner, self.device, precision=self.precision)
        precision = self.precision or (profile.precision if profile else "fp32")
        costs = {**listed_costs(), **{name: cost_named(name) for name in budget.asked}}
        costs |= chip
        if profile is not None:
            costs["latency"] = latency_on(profile, measured="latency" in budget)
        if self.memory_of is not None and "peak_memory" in budget:
            costs["peak_memory"] = RuntimeMemory(self.memory_of, precision)
        if self.size_of and "size" in budget:
            costs["size"] = ExportedSize(self.size_of, precision)
        step = max(ROUND_TO, profile.steps["out"]) if profile else ROUND_TO
        try:
            yield TargetCosts(costs, step, refine=profile is None)
        finally:
            for cost in costs.values():
                cost.close()


def chip_costs(chip: str | Path) -> dict[str, Cost]:
    """What a chip charges: by the formulas of its file alone, or by its compiler. Raises as ``cost_file``."""
    file = cost_file(chip)
    return file.costs if file.compiler is None else npu_costs(file)


def latency_on(profile: Profile, *, measured: bool) -> DeviceLatency:
    """Latency on the device of a profile: where that is this machine, and it is asked for, measured."""
    here = profile.matches(devices.measuring_conditions(profile.runtime["threads"], profile.precision))
    return MachineLatency(profile) if measured and here else DeviceLatency(profile)


def content_digest(named: DeviceLike | None) -> str | None:
    """SHA-256 of a profile, or of the file with this path or, of a device, with this name; None where no file has it.

    Results depend on the content of these files, not on what they are called.
    """
    if named is None:
        return None
    if isinstance(named, Profile):
        return hashlib.sha256(named.to_json().encode()).hexdigest()
    for place in (Path(named), named_folder() / f"{named}.json"):
        if place.is_file():
            return hashlib.sha256(place.read_bytes()).hexdigest()
    return None


def resolve_profile(planner: Plans, device: DeviceLike | None, *, precision: str | None = None) -> Profile:
    """The profile of a device; of this machine, for this model, where that or none is named. Raises DeviceError."""
    if device is None or device == devices.HERE:
        jobs, weight_bytes = devices.jobs(devices.sites(planner.prepared.structure)), parameter_bytes(planner.model)
        return devices.here(jobs, far=weight_bytes, precision=precision or "fp32")
    return profile_in(device, precision)


def profile_in(device: str | Path | Profile, precision: str | None) -> Profile:
    """The profile of a device, measured in this precision if one is named. Raises DeviceError."""
    profile = device if isinstance(device, Profile) else devices.find(device)
    if precision is not None and profile.precision != precision:
        raise DeviceError(
            f"the profile of {profile.name or profile.device['processor']} was measured in {profile.precision}, and "
            f"{precision} was asked for. Measure it again: reconvene device profile MODEL --precision {precision} "
            "-o PROFILE.json"
        )
    return profile


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters, each counted once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
