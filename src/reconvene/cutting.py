"""``rc.plan`` and ``rc.prune``: the main road, and where it ends in seconds, a stopwatch at its end.

A budget on latency is kept by prediction first: the solver knows what every layer takes on the device. Where the
device is this machine the result is then timed in the runtime, and the prediction corrected until what was *measured*
keeps the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reconvene import devices, rectifier
from reconvene.allocation import Budget
from reconvene.allocation.budget import read
from reconvene.deploy.benchmark import latency as stopwatch
from reconvene.devices import Predictor, Profile
from reconvene.errors import BudgetError
from reconvene.filesize import keep_size
from reconvene.planner import Data, Loss, Planner
from reconvene.planning import found, timed
from reconvene.structure import Structure
from reconvene.surgery import Plan

# Plans that are timed at most, and how close below the limit is close enough.
ATTEMPTS, ENOUGH = 6, 0.93
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
        say: told what takes time.

    Raises:
        BudgetError: the budget cannot be kept; the message and ``error.floor`` say what could.
        StructureError: nothing can be pruned; the message says why.
        DeviceError: the profile is missing, damaged, or does not know a layer of this model.
    """
    planner = Planner(model, example_inputs, criterion, data, seed, evaluator=evaluator, loss=loss)
    return plan_with(planner, budget, round_to=round_to, device=device, size_of=size_of, say=say)


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
) -> nn.Module:
    """Plan, apply and rectify in one call; the result is a new module and carries ``reconvene_plan``.

    Args and errors as for ``plan``; ``rectify`` is ``reinit``, ``rescale`` or ``keep``.
    """
    planner = Planner(model, example_inputs, criterion, data, seed, evaluator=evaluator, loss=loss)
    made = plan_with(planner, budget, round_to=round_to, device=device, size_of=size_of)
    with timed(made.timings, "surgery"):
        small = made.apply(model)
    with timed(made.timings, "rectify"):
        rectifier.rectify(small, made, example_inputs, how=rectify, seed=seed)
    return small


def plan_with(
    planner: Planner,
    budget: Budget,
    *,
    round_to: int | None = None,
    device: Device | None = None,
    size_of: Sequence[str] = (),
    say: Callable[[str], None] = devices.store.silent,
) -> Plan:
    """``plan`` for one of many budgets of a model."""

    def keep(tried: Budget) -> Plan:
        return _timely(planner, tried, round_to, device, say)

    return keep_size(planner, budget, size_of, keep) if size_of and budget.size is not None else keep(budget)


def _timely(
    planner: Planner, budget: Budget, round_to: int | None, device: Device | None, say: Callable[[str], None]
) -> Plan:
    if budget.latency is None:
        return planner.plan(budget, round_to=ROUND_TO if round_to is None else round_to)
    timings: dict[str, float] = {}
    with timed(timings, "profile"):
        profile = resolve(planner, device, say)
    target = _Target(planner, budget, profile, max(ROUND_TO, profile.steps["out"]) if round_to is None else round_to)
    if profile.matches(devices.conditions(profile.runtime["threads"], "fp32")):
        made = target.measured(say)
    else:
        made = target.predicted()
    made.timings = {**timings, **made.timings}
    return made


def resolve(planner: Planner, device: Device | None, say: Callable[[str], None]) -> Profile:
    """The profile of a device; of this machine, for this model, where none is named. Raises DeviceError."""
    if isinstance(device, Profile):
        return device
    if device is not None:
        return devices.find(device)
    structure = planner.prepared.structure
    return devices.here(devices.jobs(devices.sites(structure)), far=weights_of(planner.model), say=say)


def weights_of(model: nn.Module) -> int:
    """Bytes of a model's parameters, each counted once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


class _Target:
    """One budget with a limit in seconds, on one device."""

    def __init__(self, planner: Planner, budget: Budget, profile: Profile, round_to: int) -> None:
        self.planner, self.budget, self.profile, self.round_to = planner, budget, profile, round_to
        self.scale = 1.0
        self._asked = read("latency", budget.latency or 1.0)

    def predicted(self) -> Plan:
        """A plan whose predicted seconds keep the limit, unaligned widths included."""
        dense = self._seconds(self.planner.prepared.structure.widths)
        limit = self._asked.of(dense)
        aim = limit
        for _ in range(ATTEMPTS):
            made = self._plan(aim)
            seconds = self._seconds(_widths(made))
            if seconds <= limit:
                return self._told(made, limit, dense, seconds, f"latency predicted for {self.profile.conditions}")
            aim *= limit / seconds
        raise BudgetError(f"latency {self.budget.latency}: no widths were found that are predicted to keep it")

    def measured(self, say: Callable[[str], None]) -> Plan:
        """A plan whose measured seconds keep the limit, the widest that was tried."""
        model, inputs = self.planner.model, self.planner.example_inputs
        say("timing the dense network in ONNX Runtime")
        dense = self._stopwatch(model)
        limit = self._asked.of(dense)
        self.scale = dense / self._seconds(self.planner.prepared.structure.widths)
        best: tuple[float, Plan] | None = None
        tried: set[tuple[int, ...]] = set()
        tightest = float("inf")
        aim = AIM * limit
        for _ in range(ATTEMPTS):
            made = self._plan(aim)
            widths = _widths(made)
            if tuple(widths.tolist()) in tried:
                break
            tried.add(tuple(widths.tolist()))
            small = made.apply(model)
            rectifier.rectify(small, made, inputs, how="reinit", seed=self.planner.seed)
            seconds = self._stopwatch(small)
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
            return self.planner.plan(budget, round_to=self.round_to, clock=clock)
        except BudgetError as error:  # in the words of who asked
            asked = str(error).replace(f"latency {budget.latency}", f"latency {self.budget.latency}")
            raise BudgetError(f"{asked} ({self.profile.conditions})", error.floor) from error

    def _seconds(self, widths: NDArray[np.int64]) -> float:
        return Predictor(self.planner.prepared.structure, self.profile, scale=self.scale).seconds(widths)

    def _stopwatch(self, model: nn.Module) -> float:
        return stopwatch(model, self.planner.example_inputs)

    def _told(self, made: Plan, limit: float, dense: float, seconds: float, note: str) -> Plan:
        return found(made, self.budget, "latency", limit, pruned=seconds, dense=dense, note=note)


def _widths(made: Plan) -> NDArray[np.int64]:
    return np.array([row.width for row in made.rows], dtype=np.int64)
