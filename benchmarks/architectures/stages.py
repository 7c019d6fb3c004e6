"""One network on the road that users take: plan, apply, compare, rectify, train, save, load, export.

Runs in a process of its own. The record goes to ``tell`` before every stage, so that a process that is stopped for its
time or memory leaves what is known.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

import reconvene as rc
from architectures.checked import check_values
from architectures.entry import Architecture, squared
from architectures.proving import TROUBLE, described, first_line, in_double, innermost, timed_structure
from architectures.results import STATES, Options
from reconvene.deploy.model_io import batch_size, noise
from reconvene.errors import ReconveneError
from reconvene.structure import analyse, call, tensors_in
from reconvene.structure.inputs import map_tensors
from reconvene.utils.module_state import afresh_in_eval
from support.proof import TOLERANCE, both_signs, error, share_kept

SINGLE_TOLERANCE = 1e-4
BIG = 250_000_000
"""Parameters above which a network stays in single precision: three copies in double precision do not fit."""
BUDGETS = (("magnitude", {"params": "2x"}), ("synflow", {"macs": "4x"}))
"""Criterion and budget of each plan."""
STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""What a training step may take off the loss to first order, as a share of it; kinks of the loss need a small one."""
DRAWS = 5
"""Draws of dropout and of left out layers under which gradients are looked for, and batches for norms' statistics."""
SAMPLES = 8
"""Examples of such a batch."""

Record = dict[str, Any]
Tell = Callable[[Record], None]


class DifferenceError(Exception):
    """Two networks that must compute the same do not."""


def sweep_architecture(architecture: Architecture, tell: Tell, options: Options = Options()) -> Record:  # noqa: B008
    """The record of one network: the state, the seconds and the reason of every stage, and the verdict."""
    started = time.perf_counter()
    record: Record = {"name": architecture.name, "source": architecture.source, "asked": list(options.stages)}
    trial = Trial(architecture, record, tell, options)
    trial.run()
    record["seconds"] = round(time.perf_counter() - started, 3)
    record["verdict"] = verdict(record)
    tell(record)
    return record


def verdict(record: Record) -> str:
    """The worst state of all stages, with the stage and the reason; ``failed`` where not even a plan was made."""
    stages = record["stages"]
    if "plan" not in stages:
        return f"failed ({record.get('error', 'no plan was asked for')})"
    name, stage = max(stages.items(), key=lambda item: STATES.index(item[1]["state"]))
    return "passed" if stage["state"] == "passed" else f"{stage['state']} ({name}: {stage['reason']})"


@dataclass
class Trial:
    """One network, and what is known of it so far."""

    architecture: Architecture
    record: Record
    tell: Tell
    options: Options
    tolerance: float = TOLERANCE
    model: nn.Module = field(init=False)
    inputs: Any = field(init=False)

    def run(self) -> None:
        """Every stage that was asked for, as far as the stages before it allow."""
        self.record |= {"stages": {}, "stage": "build"}
        self.tell(self.record)
        try:
            self.build()
        except (*TROUBLE, NotImplementedError) as trouble:
            self.record["error"] = f"{self.record['stage']}: {type(trouble).__name__}: {first_line(trouble)}"
            return
        chosen = None
        for criterion, budget in BUDGETS:
            chosen = self.plan_and_compare(criterion, budget) or chosen
        if chosen is not None:
            self.use(*chosen)

    def build(self) -> None:
        """The network with parameters as training leaves them, in double precision where it can be."""
        model, inputs = self.architecture.build()
        model.eval()
        self.record["parameters"] = sum(p.numel() for p in model.parameters())
        both_signs(model)
        single = self.record["parameters"] > BIG
        if not single:
            model, inputs, single = in_double(model, inputs)
        self.tolerance = SINGLE_TOLERANCE if single else TOLERANCE
        self.record |= {"dtype": "float32" if single else "float64", "tolerance": self.tolerance}
        if self.options.value_checks:
            self.record["checked"] = check_values(model, inputs)
        self.model, self.inputs = model, inputs
        self.record["stage"] = "structure"
        self.tell(self.record)
        self.record |= timed_structure(model, inputs) | described(analyse(model, inputs))

    def plan_and_compare(self, criterion: str, budget: dict[str, str]) -> tuple[rc.Plan, nn.Module] | None:
        """Plan, apply, and hold the small network against the silenced one; None where no small network came out."""
        words = f"{criterion}, {', '.join(f'{cost} {limit}' for cost, limit in budget.items())}"
        plan = self.attempt("plan", partial(rc.plan, self.model, self.inputs, rc.Budget(**budget), criterion), words)
        if plan is None:
            return None
        self.record["notes"] = sorted({*self.record.get("notes", []), *(note[:200] for note in plan.notes)})
        small = self.attempt("apply", lambda: plan.apply(self.model).eval(), words)
        if small is None:
            return None
        self.record.setdefault("kept", {})[words] = round(share_kept(small, self.model), 4)
        self.attempt("compare", lambda: self.compare(plan, small), words)
        return plan, small

    def compare(self, plan: rc.Plan, small: nn.Module) -> None:
        """Raise DifferenceError unless the small network computes what the silenced one does."""
        outputs = self.architecture.compare or call
        with torch.no_grad():
            results = outputs(small, self.inputs)
            dense = outputs(self.model, self.inputs)
            expected = outputs(plan.mask(self.model).eval(), self.inputs)
        require_finite(expected)
        off = difference(results, expected)
        self.record["error_of_outputs"] = max(self.record.get("error_of_outputs", 0.0), off)
        if not off < self.tolerance:
            raise DifferenceError(f"the outputs differ by {off:.1e} relative")
        if any(row.width < row.dense for row in plan.rows) and difference(dense, expected) < self.tolerance:
            raise ValueError("silencing what the plan removes changes no output, so nothing is shown")

    def use(self, plan: rc.Plan, small: nn.Module) -> None:
        """What a user does with the small network: rectify, train, save, load, export."""
        self.attempt("rectify", lambda: rc.rectify(small, plan, self.inputs))
        self.attempt("train", lambda: train(self.architecture, self.model, small, self.inputs))
        with tempfile.TemporaryDirectory() as folder:
            if self.attempt("save", lambda: self.save(plan, small, folder)):
                self.attempt("load", lambda: self.load(small, folder))
        with tempfile.TemporaryDirectory() as folder:
            self.attempt("export", lambda: self.export(small, folder))

    def save(self, plan: rc.Plan, small: nn.Module, folder: str) -> bool:
        """Write the artifact; its source is the builder of this sweep."""
        source = {"address": "architectures:dense", "args": {"name": self.architecture.name}}
        if self.options.value_checks:
            raise ValueError("a network with checks of values is not what its builder builds: leave out save")
        rc.save(small, folder, plan=plan, source=source)
        return True

    def load(self, small: nn.Module, folder: str) -> None:
        """Read the artifact again; raise DifferenceError unless every tensor and every output is the saved one."""
        loaded = rc.load(folder, allow_import=True).eval()
        state = loaded.state_dict()
        for name, tensor in small.state_dict().items():
            if not (torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype):
                raise DifferenceError(f"{name} of the loaded network is not the saved one")
        loaded.to(torch.float64 if self.record["dtype"] == "float64" else torch.float32)
        with torch.no_grad():
            results, expected = call(loaded, self.inputs), call(small.eval(), self.inputs)
        off = difference(results, expected)
        if not off < self.tolerance:
            raise DifferenceError(f"the outputs of the loaded network differ by {off:.1e} relative")

    def export(self, small: nn.Module, folder: str) -> None:
        """Export to ONNX, verified in ONNX Runtime; a refusal says whether the dense network is refused, too."""
        inputs = map_tensors(to_single, self.inputs)
        try:
            rc.export(settle_statistics(small.float(), inputs), Path(folder) / "small", example_inputs=inputs)
        except ReconveneError as refusal:
            try:
                rc.export(settle_statistics(self.model.float(), inputs), Path(folder) / "dense", example_inputs=inputs)
                words = "the dense network is exported"
            except ReconveneError:
                words = "the dense network is refused, too"
            reason = first_line(refusal).replace(folder, "FOLDER")  # results name no path of a machine
            raise type(refusal)(f"[{words}] {reason}") from refusal

    def attempt(self, stage: str, action: Callable[[], Any], words: str = "") -> Any:
        """Run a stage that was asked for: its worst state and its first reason stay in the record. None if not passed.

        A stage without a result counts as True.
        """
        if stage not in self.options.stages:
            return None
        self.record["stage"] = stage
        self.tell(self.record)
        started = time.perf_counter()
        result, state, reason = None, "passed", ""
        try:
            result = action()
            result = True if result is None else result
        except ReconveneError as refusal:
            state, reason = "refused", f"{type(refusal).__name__}: {first_line(refusal)}"
        except DifferenceError as wrong:
            state, reason = "WRONG", str(wrong)
        except (*TROUBLE, NotImplementedError) as trouble:
            state, reason = "failed", f"{type(trouble).__name__}: {first_line(trouble)} [{innermost(trouble)}]"
        seconds = time.perf_counter() - started
        earlier = self.record["stages"].get(stage, {"state": "passed", "reason": "", "seconds": 0.0})
        if STATES.index(state) > STATES.index(earlier["state"]):
            earlier |= {"state": state, "reason": f"{words}: {reason}" if words else reason}
        self.record["stages"][stage] = earlier | {"seconds": round(earlier["seconds"] + seconds, 3)}
        return result


def train(architecture: Architecture, dense: nn.Module, small: nn.Module, inputs: Any) -> None:
    """A step down the gradient lowers the loss, and what has a gradient in the dense network has one in the small one.

    Raises ValueError where that is not so.
    """
    loss = architecture.loss or squared
    before, slopes = gradients(small.train(), loss, inputs)
    missing = sorted(reached(dense.train(), loss, inputs) - reached(small, loss, inputs))
    dense.eval()
    if missing:
        raise ValueError(f"{len(missing)} parameters have no gradient, such as {missing[0]}")
    if not all(bool(slope.isfinite().all()) for slope in slopes.values()):
        raise ValueError("a gradient is not finite")
    steepness = float(sum(slope.square().sum() for slope in slopes.values()))
    if not steepness:
        raise ValueError("every gradient is zero")
    parameters = dict(small.named_parameters())
    moved = 0.0
    for share in STEPS:
        length = share * max(abs(before), 1e-6) / steepness
        with torch.no_grad():
            for name, slope in slopes.items():
                parameters[name].sub_(slope, alpha=length - moved)
        moved = length
        after = float(seeded(loss, small, inputs).detach())
        if after < before:
            small.eval()
            return
    raise ValueError(f"a step down the gradient does not lower the loss: {before:.6g} becomes {after:.6g}")


def gradients(
    model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], inputs: Any, *, seed: int = 0
) -> tuple[float, dict[str, Tensor]]:
    """The loss, and the gradient of every parameter that has one."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for p in model.parameters() if p.requires_grad]
    value = seeded(loss, model, inputs, seed)
    slopes = torch.autograd.grad(value, parameters, allow_unused=True)
    return float(value.detach()), {n: slope for n, slope in zip(names, slopes, strict=True) if slope is not None}


def reached(model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], inputs: Any) -> set[str]:
    """The parameters that a gradient reaches under one of several draws: some networks leave out layers at random."""
    return {name for seed in range(DRAWS) for name in gradients(model, loss, inputs, seed=seed)[1]}


def seeded(loss: Callable[[nn.Module, Any], Tensor], model: nn.Module, inputs: Any, seed: int = 0) -> Tensor:
    """The loss under one choice of what dropout and the like draw."""
    torch.manual_seed(seed)
    return loss(model, inputs)


def settle_statistics(model: nn.Module, inputs: Any) -> nn.Module:
    """The model in eval mode, its norms' statistics those of activations, as training leaves them.

    Random statistics amplify rounding from layer to layer until float32 says nothing of a deep network, and so do
    those of two examples. A detector takes a list of images, of which the examples are as many as it gets.
    """
    try:
        _settle(model, inputs, SAMPLES)
    except TROUBLE:
        _settle(model, inputs, batch_size(inputs))
    return model.eval()


def _settle(model: nn.Module, inputs: Any, size: int) -> None:
    torch.manual_seed(0)
    update_bn([(noise(inputs, size, seed=seed),) for seed in range(DRAWS)], Called(model))


class Called(nn.Module):
    """A model as a function of its example inputs, of which only norms train: detectors ask for targets in training."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = afresh_in_eval(model)

    def forward(self, inputs: Any) -> Any:
        """The model's outputs for those inputs."""
        return call(self.model, inputs)

    def train(self, mode: bool = True) -> Called:
        """Batch norms gather statistics; everything else stays as it is at inference."""
        self.training = mode
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self


def difference(results: Any, expected: Any) -> float:
    """How far outputs are from those expected, relative to the largest; infinite where shapes or choices differ."""
    try:
        return error(results, expected)
    except (AssertionError, ValueError):
        return float("inf")


def require_finite(outputs: Any) -> None:
    """Raise ValueError where an output is infinite or not a number: nothing can be compared then."""
    if not all(bool(t.isfinite().all()) for t in tensors_in(outputs) if t.is_floating_point()):
        raise ValueError("the output is not finite, so nothing can be compared")


def to_single(tensor: Tensor) -> Tensor:
    """The tensor in single precision, where it holds numbers with a fraction."""
    return tensor.float() if tensor.is_floating_point() else tensor
