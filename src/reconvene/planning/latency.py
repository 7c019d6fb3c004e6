"""Budgets on latency: kept by prediction, and where the device is this machine, corrected by a stopwatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reconvene import devices, rectifier
from reconvene.allocation import Budget
from reconvene.allocation.budget import read
from reconvene.deploy.benchmark import latency as inference
from reconvene.devices import Predictor, Profile
from reconvene.errors import BudgetError, DeviceError
from reconvene.planning.assemble import with_measured_cost
from reconvene.planning.session import Foresee, Planner
from reconvene.structure import Structure
from reconvene.surgery import Plan

# Plans that are timed at most, and how close below the limit is close enough.
ATTEMPTS, ENOUGH = 8, 0.93
# A measurement of the same network varies by some percent: the solver aims this far below the limit.
AIM = 0.98
# Two predictions that are nearer than this lead to the same widths, or to neighbours.
CLOSE = 0.995
_UNSETTLED = "this machine was slower than at its best all the while (if it always is: measure it again)"
Device = str | Path | Profile


def resolve(
    planner: Planner, device: Device | None, say: Callable[[str], None], *, precision: str | None = None
) -> Profile:
    """The profile of a device; of this machine, for this model, where that or none is named. Raises DeviceError."""
    if device is None or device == devices.HERE:
        jobs, weight_bytes = devices.jobs(devices.sites(planner.prepared.structure)), weights_of(planner.model)
        return devices.here(jobs, far=weight_bytes, precision=precision or "fp32", say=say)
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


class Timely:
    """One budget with a limit in seconds, on one device; ``foresee`` predicts its other costs."""

    def __init__(
        self, planner: Planner, budget: Budget, profile: Profile, round_to: int, foresee: Mapping[str, Foresee]
    ) -> None:
        self.planner, self.budget, self.profile, self.round_to = planner, budget, profile, round_to
        self.foresee = foresee
        self.scale = 1.0
        self._requested_limit = read("latency", budget.latency or 1.0)

    @property
    def is_here(self) -> bool:
        """Whether the device is this machine with its runtime, so that results can be timed."""
        return self.profile.matches(devices.conditions(self.profile.runtime["threads"], self.profile.precision))

    def predicted(self) -> Plan:
        """A plan whose predicted seconds keep the limit, unaligned widths included."""
        dense = self._seconds(self.planner.prepared.structure.widths)
        limit = self._requested_limit.of(dense)
        target = limit
        for _ in range(ATTEMPTS):
            plan = self._plan(target)
            seconds = self._seconds(_widths(plan))
            if seconds <= limit:
                return self._with_latency(plan, limit, dense, seconds, _predicted_for(self.profile))
            target *= limit / seconds
        raise BudgetError(f"latency {self.budget.latency}: no widths were found that are predicted to keep it")

    def measured(self, say: Callable[[str], None]) -> Plan:
        """A plan whose measured seconds keep the limit, the widest that was tried."""
        with closing(devices.Stopwatch(devices.reference(self.profile.runtime["threads"], self.profile.pace))) as watch:
            try:
                plan = self._corrected(partial(self._seconds_by, watch), say)
            except BudgetError as error:
                why = f". {_UNSETTLED}" if watch.unsettled else ""
                raise BudgetError(f"{error}{why}", error.floor, error.pinned) from error
        if watch.unsettled:
            plan.notes.append(f"{_UNSETTLED}: {watch.unsettled} times were taken as they came")
        return plan

    def _corrected(self, time: Callable[[nn.Module], float], say: Callable[[str], None]) -> Plan:
        model, inputs = self.planner.model, self.planner.example_inputs
        say(f"timing the dense network in ONNX Runtime in {self.profile.precision}")
        dense = time(model)
        limit = self._requested_limit.of(dense)
        self.scale = dense / self._seconds(self.planner.prepared.structure.widths)
        dense_widths = self.planner.prepared.structure.widths
        best: tuple[float, Plan] | None = None
        measured = {tuple(dense_widths.tolist()): dense}
        kept, missed = 0.0, float("inf")  # the longest prediction that kept the limit, the shortest that did not
        target = limit if dense <= limit else AIM * limit
        for _ in range(2 * ATTEMPTS):
            try:
                plan = self._plan(target)
            except BudgetError:
                if len(measured) == 1:
                    raise
                break  # what is left to try is below the floor: the message below says what was measured
            widths = _widths(plan)
            key = tuple(widths.tolist())
            if key not in measured:
                if len(measured) > ATTEMPTS:
                    break
                small = plan.apply(model)
                rectifier.rectify(small, plan, inputs, how="reinit", seed=self.planner.seed)
                measured[key] = time(small)
                say(f"measured {measured[key] * 1e3:.3g} ms of {limit * 1e3:.3g} ms")
            seconds = measured[key]
            if seconds <= limit and (best is None or seconds > best[0]):
                best = seconds, plan
            if ENOUGH * limit <= seconds <= limit or (seconds <= limit and (widths == dense_widths).all()):
                break
            kept, missed = (max(kept, target), missed) if seconds <= limit else (kept, min(missed, target))
            if kept >= CLOSE * missed:
                break  # the next step in width is too long
            target = target * AIM * limit / seconds
            target = target if kept < target < missed else (kept + missed) / 2 if best else missed * AIM
        if best is None:
            raise BudgetError(
                f"latency {self.budget.latency}: every plan that was predicted to keep it took longer when measured, "
                f"the shortest {min(measured.values()) * 1e3:.3g} ms of {limit * 1e3:.3g} ms. Is the machine busy? "
                "Else ask for more time",
                {"latency": min(measured.values())},
            )
        note = f"latency measured on {self.profile.conditions}"
        return self._with_latency(best[1], limit, dense, best[0], note)

    def _plan(self, limit: float) -> Plan:
        budget = replace(self.budget, latency=f"{limit:.9f}s")

        def clock(structure: Structure) -> Callable[[NDArray[np.int64]], float]:
            return Predictor(structure, self.profile, scale=self.scale).floor

        try:
            return self.planner.plan(budget, round_to=self.round_to, foresee={**self.foresee, "latency": clock})
        except BudgetError as error:  # name the limit that the user set, not the tightened one
            message = str(error).replace(f"latency {budget.latency}", f"latency {self.budget.latency}")
            raise BudgetError(f"{message} ({self.profile.conditions})", error.floor, error.pinned) from error

    def _seconds(self, widths: NDArray[np.int64]) -> float:
        return Predictor(self.planner.prepared.structure, self.profile, scale=self.scale).seconds(widths)

    def _seconds_by(self, watch: devices.Stopwatch, model: nn.Module) -> float:
        options = {"precision": self.profile.precision, "threads": self.profile.runtime["threads"]}
        return inference(model, self.planner.example_inputs, **options, settled=watch.time)

    def _with_latency(self, plan: Plan, limit: float, dense: float, seconds: float, note: str) -> Plan:
        return with_measured_cost(plan, self.budget, "latency", limit, pruned=seconds, dense=dense, note=note)


def _predicted_for(profile: Profile) -> str:
    """A note that names the device; for this machine also whether its runtime has another version now."""
    conditions = devices.conditions(profile.runtime["threads"], profile.precision)
    note = f"latency predicted for {profile.conditions}"
    if profile.device != conditions["device"] or profile.runtime == conditions["runtime"]:
        return note
    now = f"{profile.runtime['name']} {conditions['runtime']['version']}"
    return f"{note}. It is of this machine, which has {now} now: measure it again"


def _widths(plan: Plan) -> NDArray[np.int64]:
    return np.array([row.width for row in plan.rows], dtype=np.int64)


def note_predicted_latency(plan: Plan, planner: Planner, profile: Profile) -> None:
    """Add the predicted latency to a plan without a budget on latency, in place. Raises DeviceError."""
    structure = planner.prepared.structure
    predictor = Predictor(structure, profile)
    for variant, widths in (("dense", structure.widths), ("pruned", _widths(plan))):
        plan.costs[variant]["latency"] = predictor.seconds(widths)
    plan.notes.append(_predicted_for(profile))
