"""The last word on a plan is arithmetic: the small network and the silenced one give the same outputs.

Both run on the example inputs with norms, biases and scales that look trained: at initialization a wrong channel may
carry a zero, which no output shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reconvene.structure import Keep, Structure, call
from reconvene.structure.copies import copy_model
from reconvene.structure.inputs import call_on, copied, map_tensors, tensors_in
from reconvene.structure.patches import canonical_calls, exclusive
from reconvene.structure.restore import kept_random_state
from reconvene.structure.state import clear_state, own_instances
from reconvene.structure.watch import Observe, ObservedCall, Results, watched
from reconvene.surgery.apply import apply, mask_in_place, sliced
from reconvene.surgery.call_comparison import TOLERANCE, CallComparison, relative_error
from reconvene.surgery.choices import Choices
from reconvene.surgery.cut_on_read import apply_on_read
from reconvene.surgery.silence import observed
from reconvene.surgery.silenced_run import run_silenced
from reconvene.utils.module_state import afresh_in_eval
from reconvene.utils.notes import Note

if TYPE_CHECKING:
    from reconvene.surgery.plan import Plan

NOISE = 0.1


@dataclass(frozen=True)
class Difference:
    """Where the small network is not the silenced one: the number of a recorded call, if it could be located."""

    call: int | None
    why: str


@dataclass(frozen=True)
class PlanVerification:
    """What the comparison says: a difference, if there is one, and notes for the plan."""

    difference: Difference | None = None
    notes: tuple[Note, ...] = ()


def verify_plan(
    plan: Plan, model: nn.Module, example_inputs: Any, structure: Structure, keep: Keep, *, seed: int = 0
) -> PlanVerification:
    """Compare the outputs of both networks on the example inputs.

    Args:
        plan: the plan to verify.
        model: the dense model, only read; its tensors must have values.
        example_inputs: as for ``groups``.
        structure: the structure that the plan was made from, which locates a difference.
        keep: the channels that the plan keeps.
        seed: of the noise on parameters, and of what a forward pass draws.

    Returns:
        No difference if no output differs by more than ``TOLERANCE`` of its largest value, in float32 or, where that
        is too coarse, in float64, or, where rounding decides a choice (``choices``), after the same choice.
    """
    with exclusive(), kept_random_state(), torch.no_grad(), canonical_calls():
        noisy = trained_like(model, seed)
        error, why = _difference(
            lambda: run_silenced(plan, model, copied(example_inputs), noisy),
            lambda: _called(_small(plan, model, noisy, on_read=True), example_inputs),
            seed,
        )
        if error <= TOLERANCE:
            return PlanVerification()
        pairs = _Pairs(plan, model, noisy, example_inputs, seed)
        if pairs.to_float64():
            error, why = pairs.difference()
            if error <= TOLERANCE:
                return PlanVerification()
        return pairs.call_by_call(
            structure, keep, why or f"the small network differs from the silenced one by {error:.1e}"
        )


def trained_like(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Noisy values for norm statistics, biases and scales, as training leaves them, by name."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor) * NOISE

    values: dict[str, Tensor] = {}
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            values[name] = buffer + noise(buffer)
        elif name.endswith("running_var"):
            values[name] = buffer * (1 + noise(buffer).abs())
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and (parameter.ndim == 1 or _all_zero(parameter)):
            values[name] = parameter.detach() + noise(parameter)
    return values


def _small(plan: Plan, model: nn.Module, noisy: dict[str, Tensor], *, on_read: bool = False) -> nn.Module:
    """The small network in eval mode, with these values in place of its own.

    With ``on_read`` its large weights are cut when they are read: what computes otherwise then is looked at again.
    """
    small = (apply_on_read(plan, model, noisy.keys()) if on_read else apply(plan, model)).eval()
    _give(small, {name: sliced(value, plan.slices.get(name, {})) for name, value in noisy.items()})
    return small


def _give(network: nn.Module, values: dict[str, Tensor]) -> None:
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, value in values.items():
        tensors[name].copy_(value)


def _all_zero(tensor: Tensor) -> bool:
    """Whether nothing but zeros is there; weights that were drawn show it in their first values."""
    return not tensor.reshape(-1)[:64].any() and not tensor.any()


class _Pairs:
    """The small and the silenced network of one plan and one copy of the model."""

    def __init__(self, plan: Plan, model: nn.Module, noisy: dict[str, Tensor], inputs: Any, seed: int) -> None:
        self.plan, self.inputs, self.seed = plan, inputs, seed
        self.small = _small(plan, model, noisy)
        probe = afresh_in_eval(copy_model(model))
        _give(probe, noisy)
        self.silenced = mask_in_place(plan, probe).eval()

    def to_float64(self) -> bool:
        """Turn both into float64; whether the model's code runs so, else they stay as they are."""
        self.small.double()
        self.silenced.double()
        self.inputs = map_tensors(lambda t: t.double() if t.is_floating_point() else t, self.inputs)
        try:
            self._run(self.silenced)
        except Exception:  # noqa: BLE001 -- foreign code, which may fix a type of its own
            self.small.float()
            self.silenced.float()
            self.inputs = map_tensors(lambda t: t.float() if t.is_floating_point() else t, self.inputs)
            return False
        return True

    def difference(self) -> tuple[float, str]:
        """The largest relative difference of an output."""
        return _difference(lambda: self._run(self.silenced), lambda: self._run(self.small), self.seed)

    def call_by_call(self, structure: Structure, keep: Keep, why: str) -> PlanVerification:
        """Compare every call, after the same choices; a difference names the first call whose results differ."""
        comparison = CallComparison(structure, keep)
        choices = Choices(comparison)
        self._watch(self.silenced, choices.note)

        def follow(seen: ObservedCall, outs: Results) -> Results | None:
            choice = choices.take(seen, outs)
            comparison.results.setdefault(seen.data, choice or outs)
            return choice

        small = self._watch(self.small, follow)
        silenced = self._watch(self.silenced, comparison.see)
        if small is None or silenced is None:
            return PlanVerification(Difference(comparison.first_missing(), why))
        if choices.taken and comparison.differs is None and _worst(silenced, small) <= TOLERANCE:
            return PlanVerification(notes=(comparison.choices_note(choices.taken),))
        return PlanVerification(Difference(comparison.differs, why))

    def _run(self, network: nn.Module) -> Any:
        torch.manual_seed(self.seed)
        return _called(network, self.inputs)

    def _watch(self, network: nn.Module, observe: Observe) -> list[Tensor] | None:
        """Run a network and see every result; its outputs, or ``None`` where it broke off."""
        clear_state(network)
        try:
            if network is self.silenced and self.plan.sites:
                with observed(network, observe):
                    return tensors_in(self._run(network))
            inputs = copied(self.inputs)
            torch.manual_seed(self.seed)
            with watched(network, inputs, observe), own_instances(network):
                return tensors_in(call_on(network, inputs))
        except Exception:  # noqa: BLE001 -- foreign code
            return None


def _difference(silenced: Callable[[], Any], small: Callable[[], Any], seed: int) -> tuple[float, str]:
    """The largest relative difference of an output, infinite where one network does not run; and why."""
    outputs = []
    for run, name in ((silenced, "silenced"), (small, "small")):
        torch.manual_seed(seed)
        try:
            outputs.append(tensors_in(run()))
        except Exception as error:  # noqa: BLE001 -- foreign code
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            return float("inf"), f"the {name} network does not run: {reason}"
    expected, actual = outputs
    if [t.shape for t in expected] != [t.shape for t in actual]:
        shapes = [", ".join(str(tuple(t.shape)) for t in tensors) for tensors in (actual, expected)]
        return float("inf"), f"the small network gives {shapes[0]} instead of {shapes[1]}"
    return _worst(expected, actual), ""


def _worst(expected: list[Tensor], actual: list[Tensor]) -> float:
    """The largest relative difference of two networks' outputs; infinite where their shapes differ."""
    if [t.shape for t in expected] != [t.shape for t in actual]:
        return float("inf")
    return max((relative_error(a, b) for a, b in zip(actual, expected, strict=True)), default=0.0)


def _called(network: nn.Module, inputs: Any) -> Any:
    """The output for the inputs, from a fresh state."""
    clear_state(network)
    with own_instances(network):
        return call(network, inputs)
