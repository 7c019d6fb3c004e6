"""One search as it goes on: warm-up in float, search of widths and bits, fine-tuning with what was decided."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.artifact.tensors import with_versions
from reconvene.costs import Budget
from reconvene.criteria.base import Loss
from reconvene.criteria.batches import Batches, LeftOver, argument_names, samples_in
from reconvene.errors import TrainingError
from reconvene.planning.bits.decider import BitDecider
from reconvene.planning.bits.planner import fit_norms, kept_examples
from reconvene.planning.options import Options
from reconvene.planning.search.folder import SearchFolder, numbered_tensors, with_numbered_tensors
from reconvene.planning.search.limits import ProjectedSearch, SearchLimits, search_limits
from reconvene.planning.search.phases import FloatPhase, FrozenPhase, Phase, SearchPhase, restored
from reconvene.structure.copies import copy_model
from reconvene.structure.inputs import map_tensors, tensors_in, with_usual_strides
from reconvene.structure.state import clear_state
from reconvene.surgery import Plan
from reconvene.training.checkpoint import Checkpoint, TrainingState, sha256
from reconvene.training.frozen_bits import keep_ranges
from reconvene.training.optimizer import Nesterov
from reconvene.training.randomness import seed_step
from reconvene.utils.module_tree import device_of
from reconvene.utils.progress import Stage, stage

MOMENTUM, WEIGHT_DECAY, CLIP = 0.9, 5e-4, 2.0
SAVE_SECONDS = 30.0
CHECKPOINT = 2
"""Which tensors a checkpoint holds: a run does not go on from one of a release that kept others."""


@dataclass(frozen=True)
class Schedule:
    """How long each phase takes, in epochs, and the largest learning rate of the weights."""

    warmup: int
    search: int
    finetune: int
    lr: float

    @property
    def epochs(self) -> int:
        """All of them."""
        return self.warmup + self.search + self.finetune

    def phase(self, epoch: int) -> tuple[str, int, int]:
        """The name of the phase that an epoch belongs to, its first epoch, and how many it has."""
        if epoch < self.warmup:
            return FloatPhase.name, 0, self.warmup
        if epoch < self.warmup + self.search:
            return SearchPhase.name, self.warmup, self.search
        return FrozenPhase.name, self.warmup + self.search, self.finetune

    def rate(self, share: float) -> float:
        """The learning rate when this share of all steps is done: a cosine to zero."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * share))


class SearchRun:
    """One search of ``model``, which is only read. ``options`` hold the bits, the target, the data and the loss."""

    phase: Phase
    optimizer: Nesterov
    """Both are new in every phase."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        budget: Budget,
        options: Options,
        schedule: Schedule,
        *,
        loss: Loss,
        directory: Path | None,
    ) -> None:
        assert options.data is not None, "rc.search checks it"
        self.model, self.inputs, self.budget, self.options = model, example_inputs, budget, options
        self.schedule, self.loss = schedule, loss
        self.data: Iterable[Any] = options.data
        self.device = device_of(model)
        self.names = argument_names(model, example_inputs)
        self.steps = len(self.data) if isinstance(self.data, Sized) else sum(1 for _ in self.data)
        if not self.steps:
            raise TrainingError("rc.search got no batches to train on")
        self._set_epoch(0)  # where an earlier run of this process left another one
        self.calibration = kept_examples(model, example_inputs, options)
        self.network = copy_model(model).train()
        self.state = TrainingState()
        self.start: dict[str, Tensor] = {}
        self.limits: SearchLimits | None = None
        """Of the search, once it has begun."""
        self.plan: Plan | None = None
        self.folder = SearchFolder(directory, {} if directory is None else self._identity())
        self.saved_at = time.monotonic()
        self._open = ExitStack()

    def run(self, *, resume: bool) -> nn.Module:
        """Go on from the checkpoint, or begin; the small network in eval mode, with its plan."""
        with self._open:
            self._train(resume=resume)
        assert self.plan is not None, "the last phase has one"
        small = self.plan.apply(self.model)  # a network without our hooks
        small.load_state_dict(self.network.state_dict())
        assert isinstance(self.phase, FrozenPhase), "it is the last"
        keep_ranges(small, self.phase.rounded.ranges())
        return small.eval()

    def _train(self, *, resume: bool) -> None:
        """Every epoch that is left."""
        self._begin(self.folder.checkpoint(resume=resume))
        done = self.state.epoch * self.steps + self.state.step
        with stage("searching widths and bits", self.schedule.epochs * self.steps, done=done, summary=False) as work:
            while not self.state.finished:
                self._epoch(work)
                self._end_epoch()

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            self.state.records.append({"event": "start", **self.folder.identity})
        else:
            self.state = checkpoint.state
            if start := checkpoint.tensors_with_prefix("start."):
                self.start = start
                self.network.load_state_dict(with_versions(start, checkpoint.versions, self.network))
            saved = checkpoint.tensors_with_prefix("calibration.")
            self.calibration = with_numbered_tensors(self.calibration, saved)
            plans = [record["plan"] for record in self.state.records if record["event"] == "plan"]
            if plans:
                self.plan = replace(Plan.from_dict(plans[0]), calibration=self.calibration)
        self.folder.begin(self.state)
        self._enter(min(self.state.epoch, self.schedule.epochs - 1))
        if checkpoint is not None:
            tensors = checkpoint.tensors_with_prefix("model.")
            self.network.load_state_dict(with_versions(tensors, checkpoint.versions, self.network))
            restored(self.optimizer.momentum_tensors, checkpoint.tensors_with_prefix("momentum."))
            restored(self.phase.tensors(), checkpoint.tensors_with_prefix("phase."))

    def _enter(self, epoch: int) -> None:
        """Begin the phase of an epoch."""
        name, first, _ = self.schedule.phase(epoch)
        self._set_epoch(first)  # a run that goes on later in the phase reads for its plan what this one reads
        if name == FloatPhase.name:
            self.phase = FloatPhase(self.network, self.loss)
        elif name == SearchPhase.name:
            if self.schedule.warmup and not self.start:
                self.start = {n: t.detach().clone() for n, t in self.network.state_dict().items()}
            self.phase = self._search_phase()
        else:
            self._cut()
            assert self.plan is not None and self.plan.bits is not None, "a search decided them"
            limits, costs = self.plan.limits, self.plan.costs["pruned"]
            use = max(costs[cost] / limit for cost, limit in limits.items())
            self.phase = FrozenPhase(self.network, self.plan.bits, self.loss, use)
        self.optimizer = Nesterov(self.network, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def _search_phase(self) -> SearchPhase:
        """The search, with the aims that it began with where it goes on."""
        known = [record["aims"] for record in self.state.records if record["event"] == "aims"]
        opened = search_limits(self.network.eval(), self.inputs, self.budget, self.options, known[0] if known else {})
        self.limits = limits = self._open.enter_context(opened)
        self.network.train()
        if limits.aims and not known:
            self._record({"event": "aims", "aims": dict(limits.aims)})
        decider = BitDecider(
            self.network,
            self.inputs,
            self.budget,
            limits.options,
            self.options.bits or (),
            answers=limits.answers,
            aims=limits.aims,
        )
        return SearchPhase(self.network, self.inputs, decider, self.loss)

    def _cut(self) -> None:
        """Replace the network by the small one of the plan, which the search makes where a checkpoint holds none."""
        if self.plan is not None:
            self.network = self.plan.apply(self.network).train()
            return
        assert isinstance(self.phase, SearchPhase) and self.limits is not None, "it comes before"
        searched = ProjectedSearch(
            self.model, self.inputs, self.options.seed, self.phase.prepared, project=self.phase.project
        )
        self.plan = plan = replace(self.limits.kept(searched), calibration=self.calibration)
        self.network = plan.apply(self.network).train()
        assert plan.bits is not None, "a search decided them"
        fit_norms(self.network, plan, plan.bits, self.inputs, self.options)
        self._record({"event": "plan", "plan": plan.to_dict()})

    def _epoch(self, work: Stage) -> None:
        total = self.schedule.epochs * self.steps
        name, first, epochs = self.schedule.phase(self.state.epoch)
        for inputs, target in self._batches():
            done = self.state.epoch * self.steps + self.state.step
            step = done - first * self.steps
            seed_step(self.device, self.options.seed, done, 0)
            clear_state(self.network)
            loss, objective = self.phase.objective(inputs, target, step=step, steps=epochs * self.steps)
            objective.backward()  # type: ignore[no-untyped-call]
            value, norm = float(loss), self.optimizer.clip(CLIP)
            if not math.isfinite(value) or not math.isfinite(norm):
                raise TrainingError(f"the loss became {value} in the {name}, step {step + 1}. Try a smaller lr")
            self.optimizer.step(self.schedule.rate(done / total))
            self.phase.after_step(step + 1, epochs * self.steps)
            self.state.step += 1
            self.state.loss_sum += value
            self.state.seen += 1
            use = self.phase.use()
            shown = "" if use is None else f", {use:.1%} of the budget"
            mean = self.state.loss_sum / self.state.seen
            work.move_to(done + 1, detail=f"{name}, epoch {self.state.epoch + 1}: loss {mean:.3f}{shown}")
            if time.monotonic() - self.saved_at >= SAVE_SECONDS and self.state.step < self.steps:
                self._save()

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        """The batches of the epoch that are left. All that they draw follows from seed, epoch and step."""
        epoch, seed = self.state.epoch, self.options.seed
        self._set_epoch(epoch)
        seed_step(self.device, seed, epoch, 1)
        drawn = torch.initial_seed() % 2**31
        batches = iter(Batches(self.data, user="rc.search", device=self.device, seed=drawn, names=self.names))
        left_over = LeftOver(self.network)
        for step in range(self.steps):
            if step:
                seed_step(self.device, seed, epoch, step, 2)
            batch = next(batches, None)
            if batch is None:
                raise TrainingError(f"the data had {self.steps} batches before, and only {step} in epoch {epoch + 1}")
            single = left_over.is_next(batch[0])
            if step >= self.state.step and single:
                self.state.step += 1
            elif step >= self.state.step:
                yield map_tensors(with_usual_strides, batch[0]), batch[1]

    def _set_epoch(self, epoch: int) -> None:
        if callable(set_epoch := getattr(self.data, "set_epoch", None)):
            set_epoch(epoch)

    def _end_epoch(self) -> None:
        name, _, _ = self.schedule.phase(self.state.epoch)
        record = {
            "event": "epoch",
            "epoch": self.state.epoch + 1,
            "phase": name,
            "loss": self.state.loss_sum / self.state.seen,
        }
        if (use := self.phase.use()) is not None:
            record["budget_use"] = use
        self._record(record)
        epoch = self.state.epoch + 1
        self.state = TrainingState(epoch=epoch, finished=epoch == self.schedule.epochs, records=self.state.records)
        if not self.state.finished and self.schedule.phase(epoch)[0] != name:
            self._enter(epoch)
        self._save()

    def _record(self, record: dict[str, Any]) -> None:
        self.state.records.append(record)
        self.folder.log(record)

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        parts = {
            "momentum": self.optimizer.momentum_tensors,
            "phase": self.phase.tensors(),
            "start": self.start if self.phase.name == SearchPhase.name else {},
            "calibration": numbered_tensors(self.calibration),
        }
        self.folder.save(self.state, self.network, parts)

    def _identity(self) -> dict[str, Any]:
        """What makes a search this one."""
        first = next(iter(Batches(self.data, user="rc.search", device=self.device, seed=0, names=self.names)))
        limits = self.options.limits
        return {
            "checkpoint": CHECKPOINT,
            **asdict(self.schedule),
            "seed": self.options.seed,
            "bits": list(self.options.bits or ()),
            "activation_bits": list(self.options.activation_bits),
            "budget": {cost: str(value) for cost, value in self.budget.asked.items()},
            **self.options.target.identity,
            "keep": list(limits.keep),
            "widths": {name: float(width) for name, width in limits.widths.items()},
            "round_to": self.options.round_to,
            "batches": self.steps,
            "batch": samples_in(*first),
            "data": sha256({str(number): tensor for number, tensor in enumerate(tensors_in(first))}),
            "weights": sha256(self.model.state_dict()),
        }
