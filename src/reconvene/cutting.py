"""``rc.plan`` and ``rc.prune``: the main road, and where it ends in seconds, a stopwatch at its end.

A budget on latency is kept by prediction first: the solver knows what every layer takes on the device. Where the
device is this machine the result is then timed in the runtime, and the prediction corrected until what was *measured*
keeps the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reconvene import devices, rectifier
from reconvene.allocation import Budget
from reconvene.allocation.budget import read
from reconvene.deploy.benchmark import latency as stopwatch
from reconvene.deploy.memory import PLANS
from reconvene.deploy.quantisation import PRECISIONS
from reconvene.devices import Predictor, Profile
from reconvene.errors import BudgetError, DeviceError, UnknownNameError
from reconvene.planner import Data, Foresee, Loss, Planner
from reconvene.planning import found, timed
from reconvene.structure import Structure
from reconvene.surgery import Plan
from reconvene.weighing import Keep, file_size, keep_weighed, runtime_memory

# Plans that are timed at most, and how close below the limit is close enough.
ATTEMPTS, ENOUGH = 8, 0.93
# A measurement of the same network varies by some percent: the solver aims this far below the limit.
AIM = 0.98
ROUND_TO = 8
Device = str | Path | Profile


def plan(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    criterion: str = "synflow",
    data: Data | None = None,
    seed: int = 0,
    *,
    evaluator: str = "fan_in",
    loss: Loss | None = None,
    round_to: int | None = None,
    device: Device | None = None,
    size_of: Sequence[str] = (),
    memory_of: str | None = None,
    precision: str | None = None,
    say: Callable[[str], None] = devices.store.silent,
) -> Plan:
    """Choose which channels stay so that every budget is kept.

    The model, its mode and the random state are left as they were.

    Args:
        model: the untrained model.
        example_inputs: as for ``groups``; budgets on MACs, memory and latency are for inputs of this size.
        budget: limits to keep, such as ``Budget(params="16x", latency="5ms")``.
        criterion: what scores weights (see ``sensitivity``).
        data: batches ``(inputs, target)`` for criteria that need data.
        seed: the same seed gives the same plan, byte for byte, unless its latency was measured.
        evaluator: what judges how much a group can lose.
        loss: ``loss(output, target)`` for criteria that need one; cross entropy by default.
        round_to: widths become multiples of this where a group is wide enough; by default 8, and with a budget on
            latency the step of the device.
        device: for budgets on latency: a profile, its file or its name. By default this machine in ONNX Runtime on one
            thread: its layers are measured when they are first met, and kept.
        size_of: formats whose files a budget on size is about, such as ``["onnx"]``: they are exported and weighed. By
            default it is about ``model.safetensors``.
        memory_of: whose plan of activations a budget on peak memory is about: ``onnx`` or ``executorch``, looked up in
            the runtime itself. By default PyTorch's own, as ``measure`` counts it.
        precision: ``int8`` makes budgets on latency, on the size of exported files and on the memory of a runtime those
            of the quantised network. By default that of the device's profile, else ``fp32``.
        say: told what takes time.

    Raises:
        BudgetError: the budget cannot be kept; the message and ``error.floor`` say what could.
        StructureError: nothing can be pruned; the message says why.
        DeviceError: the profile is missing, damaged, or does not know a layer of this model.
    """
    planner = Planner(model, example_inputs, criterion, data, seed, evaluator=evaluator, loss=loss)
    target = Target(device, tuple(size_of), memory_of, precision)
    return plan_with(planner, budget, round_to=round_to, target=target, say=say)


def prune(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    criterion: str = "synflow",
    data: Data | None = None,
    seed: int = 0,
    *,
    rectify: str = "reinit",
    evaluator: str = "fan_in",
    loss: Loss | None = None,
    round_to: int | None = None,
    device: Device | None = None,
    size_of: Sequence[str] = (),
    memory_of: str | None = None,
    precision: str | None = None,
) -> nn.Module:
    """Plan, apply and rectify in one call; the result is a new module and carries ``reconvene_plan``.

    Args and errors as for ``plan``; ``rectify`` is ``reinit``, ``rescale`` or ``keep``.
    """
    planner = Planner(model, example_inputs, criterion, data, seed, evaluator=evaluator, loss=loss)
    target = Target(device, tuple(size_of), memory_of, precision)
    made = plan_with(planner, budget, round_to=round_to, target=target)
    with timed(made.timings, "surgery"):
        small = made.apply(model)
    with timed(made.timings, "rectify"):
        rectifier.rectify(small, made, example_inputs, how=rectify, seed=seed)
    return small


@dataclass(frozen=True)
class Target:
    """What budgets on latency, exported size and memory are about; each as for ``plan``."""

    device: Device | None = None
    size_of: tuple[str, ...] = ()
    memory_of: str | None = None
    precision: str | None = None


def plan_with(
    planner: Planner,
    budget: Budget,
    *,
    round_to: int | None = None,
    target: Target = Target(),  # frozen
    say: Callable[[str], None] = devices.store.silent,
) -> Plan:
    """``plan`` for one of many budgets of a model."""
    profile = None
    timings: dict[str, float] = {}
    if target.precision not in (None, *PRECISIONS):
        raise UnknownNameError("precision", target.precision, PRECISIONS)
    if target.memory_of not in (None, *PLANS):
        raise UnknownNameError("plan of memory", str(target.memory_of), PLANS)
    if budget.latency is not None:
        with timed(timings, "profile"):
            profile = resolve(planner, target.device, say, precision=target.precision)
    precision = target.precision or (profile.precision if profile else "fp32")
    foresee: dict[str, Foresee] = {}

    def planned(tried: Budget) -> Plan:
        if profile is None:
            return planner.plan(tried, round_to=ROUND_TO if round_to is None else round_to, foresee=foresee)
        step = max(ROUND_TO, profile.steps["out"]) if round_to is None else round_to
        timely = _Timely(planner, tried, profile, step, foresee)
        return timely.measured(say) if timely.is_here else timely.predicted()

    keep: Keep = planned
    if target.memory_of is not None and budget.peak_memory is not None:
        way = devices.WAYS.get((target.memory_of, precision))
        if way is not None:
            foresee["peak_memory"] = lambda structure: devices.Held(structure, way).bytes
        keep = partial(keep_weighed, planner, scales=runtime_memory(planner, target.memory_of, precision), keep=keep)
    if target.size_of and budget.size is not None:
        keep = partial(keep_weighed, planner, scales=file_size(planner, target.size_of, precision), keep=keep)
    made = keep(budget)
    made.timings = {**timings, **made.timings}
    return made


def resolve(
    planner: Planner, device: Device | None, say: Callable[[str], None], *, precision: str | None = None
) -> Profile:
    """The profile of a device; of this machine, for this model, where none is named. Raises DeviceError."""
    if device is None:
        jobs, far = devices.jobs(devices.sites(planner.prepared.structure)), weights_of(planner.model)
        return devices.here(jobs, far=far, precision=precision or "fp32", say=say)
    profile = device if isinstance(device, Profile) else devices.find(device)
    if precision is not None and profile.precision != precision:
        raise DeviceError(
            f"the profile of {profile.name or profile.device['processor']} was measured in {profile.precision}, and "
            f"{precision} was asked for. Measure it so: reconvene device profile --precision {precision}"
        )
    return profile


def weights_of(model: nn.Module) -> int:
    """Bytes of a model's parameters, each counted once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


class _Timely:
    """One budget with a limit in seconds, on one device; ``foresee`` predicts its other costs."""

    def __init__(
        self, planner: Planner, budget: Budget, profile: Profile, round_to: int, foresee: Mapping[str, Foresee]
    ) -> None:
        self.planner, self.budget, self.profile, self.round_to = planner, budget, profile, round_to
        self.foresee = foresee
        self.scale = 1.0
        self._asked = read("latency", budget.latency or 1.0)

    @property
    def is_here(self) -> bool:
        """Whether the device is this machine with its runtime, so that results can be timed."""
        return self.profile.matches(devices.conditions(self.profile.runtime["threads"], self.profile.precision))

    @property
    def _aged(self) -> str:
        """What to say of a profile of this machine that is of another version of the runtime."""
        here, profile = devices.conditions(self.profile.runtime["threads"], self.profile.precision), self.profile
        if profile.device != here["device"] or profile.runtime == here["runtime"]:
            return ""
        now = here["runtime"]["version"]
        return f". It is of this machine, which has {profile.runtime['name']} {now} now: measure it again"

    def predicted(self) -> Plan:
        """A plan whose predicted seconds keep the limit, unaligned widths included."""
        dense = self._seconds(self.planner.prepared.structure.widths)
        limit = self._asked.of(dense)
        aim = limit
        for _ in range(ATTEMPTS):
            made = self._plan(aim)
            seconds = self._seconds(_widths(made))
            if seconds <= limit:
                note = f"latency predicted for {self.profile.conditions}{self._aged}"
                return self._told(made, limit, dense, seconds, note)
            aim *= limit / seconds
        raise BudgetError(f"latency {self.budget.latency}: no widths were found that are predicted to keep it")

    def measured(self, say: Callable[[str], None]) -> Plan:
        """A plan whose measured seconds keep the limit, the widest that was tried."""
        with closing(devices.reference(self.profile.runtime["threads"], self.profile.pace)) as pace:
            return self._corrected(partial(self._stopwatch, pace), say)

    def _corrected(self, time: Callable[[nn.Module], float], say: Callable[[str], None]) -> Plan:
        model, inputs = self.planner.model, self.planner.example_inputs
        say(f"timing the dense network in ONNX Runtime in {self.profile.precision}")
        dense = time(model)
        limit = self._asked.of(dense)
        self.scale = dense / self._seconds(self.planner.prepared.structure.widths)
        best: tuple[float, Plan] | None = None
        tried: set[tuple[int, ...]] = set()
        tightest = float("inf")
        aim = AIM * limit
        for _ in range(ATTEMPTS):
            try:
                made = self._plan(aim)
            except BudgetError:
                if not tried:
                    raise
                break  # what is left to try is below the floor: the message below says what was measured
            widths = _widths(made)
            if tuple(widths.tolist()) in tried:
                break
            tried.add(tuple(widths.tolist()))
            small = made.apply(model)
            rectifier.rectify(small, made, inputs, how="reinit", seed=self.planner.seed)
            seconds = time(small)
            say(f"measured {seconds * 1e3:.3g} ms of {limit * 1e3:.3g} ms")
            if seconds <= limit and (best is None or seconds > best[0]):
                best = seconds, made
            if ENOUGH * limit <= seconds <= limit or (widths == self.planner.prepared.structure.widths).all():
                break
            if seconds > limit:
                tightest = min(tightest, aim)
            aim = min(aim * AIM * limit / seconds, (tightest + aim) / 2 if tightest < float("inf") else float("inf"))
        if best is None:
            raise BudgetError(
                f"latency {self.budget.latency}: every plan that was predicted to keep it took longer when measured, "
                f"the last {seconds * 1e3:.3g} ms of {limit * 1e3:.3g} ms. Is the machine busy? Ask for more time",
                {"latency": seconds},
            )
        note = f"latency measured on {self.profile.conditions}"
        return self._told(best[1], limit, dense, best[0], note)

    def _plan(self, limit: float) -> Plan:
        budget = replace(self.budget, latency=f"{limit:.9f}s")

        def clock(structure: Structure) -> Callable[[NDArray[np.int64]], float]:
            return Predictor(structure, self.profile, scale=self.scale).floor

        try:
            return self.planner.plan(budget, round_to=self.round_to, foresee={**self.foresee, "latency": clock})
        except BudgetError as error:  # in the words of who asked
            asked = str(error).replace(f"latency {budget.latency}", f"latency {self.budget.latency}")
            raise BudgetError(f"{asked} ({self.profile.conditions})", error.floor) from error

    def _seconds(self, widths: NDArray[np.int64]) -> float:
        return Predictor(self.planner.prepared.structure, self.profile, scale=self.scale).seconds(widths)

    def _stopwatch(self, pace: devices.Pace, model: nn.Module) -> float:
        asked = {"precision": self.profile.precision, "threads": self.profile.runtime["threads"]}
        return stopwatch(model, self.planner.example_inputs, **asked, disturbed=pace.disturbed)

    def _told(self, made: Plan, limit: float, dense: float, seconds: float, note: str) -> Plan:
        return found(made, self.budget, "latency", limit, pruned=seconds, dense=dense, note=note)


def _widths(made: Plan) -> NDArray[np.int64]:
    return np.array([row.width for row in made.rows], dtype=np.int64)
