"""The highest learning rate of a recipe, found by a range test before the first epoch.

Smith 2015 (1506.01186): train for a few hundred steps while the rate rises from so small that nothing moves to so large
that the loss rises, and take a rate below the turn. Ours is the one at which the loss has fallen by four fifths of the
whole fall. ``lr_find`` of Lightning trains for 100 steps and takes the point of the steepest fall.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reconvene.data import Dataset
from reconvene.errors import Diverged, TrainingError
from reconvene.training.checkpoint import load_checkpoint, make_folder, require_same_run, restore
from reconvene.training.run import TrainingRun
from reconvene.utils.progress import Stage, stage

_STEPS = 200
"""Steps of the test, whatever the length of an epoch."""
LOWEST, HIGHEST = 1e-3, 6.0
"""Rates of the first step and of the last one, of SGD."""
_ADAMW = 0.01
"""Rates of AdamW are so many times those of SGD: its steps have the length of the rate, whatever the gradient."""
_SMOOTHING = 0.9
"""Weight of the earlier losses in the running mean."""
_TURN = 1.1
"""A running mean so many times its minimum ends the test: what falls after that is a network that recovers."""
_FALL = 0.8
"""Share of the whole fall of the running mean that is behind it at the chosen rate."""
_WARM = 10
"""Steps before the running mean says anything."""
_CHECKPOINT = "rate.safetensors"


@dataclass(frozen=True)
class RateTest:
    """What a range test saw: ``losses[i]`` is the training loss of the step at ``rates[i]``; ``rate`` is the choice."""

    rate: float
    seconds: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as the log of the run keeps them."""
        return {**asdict(self), "rates": list(self.rates), "losses": list(self.losses)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RateTest:
        """Undo ``to_dict``."""
        return cls(**{**values, "rates": tuple(values["rates"]), "losses": tuple(values["losses"])})

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s of a range test for the learning rate {self.rate:.3g}"


def find_rate(model: nn.Module, dataset: Dataset, *, directory: Path, resume: bool, **options: Any) -> RateTest:
    """The range test of a run: what its checkpoint keeps, else a test that goes on where it was killed.

    ``options`` are those of ``TrainingRun``. Raises TrainingError where the loss falls at no rate.
    """
    checkpoint = load_checkpoint(directory) if resume else None
    if checkpoint is not None and checkpoint.state.records:
        kept = checkpoint.state.records[0].get("rate_test")
        if kept is not None:
            return RateTest.from_dict(kept)
    test = RangeTest(model, dataset, directory=directory, **options)
    test.begin(resume=resume)
    test.go()
    return test.result()


def remove_checkpoint(directory: Path) -> None:
    """Remove the checkpoint of the test, once the run's own checkpoint keeps what it found."""
    (directory / _CHECKPOINT).unlink(missing_ok=True)


class RangeTest(TrainingRun):
    """Steps of training at rising rates, on a copy of the model that is thrown away.

    Checkpoints are those of a run, in a file of their own, so a test that was killed goes on to the same bits.
    """

    checkpoint_name = _CHECKPOINT

    @property
    def done(self) -> int:
        """Steps done since the test was first started."""
        return len(self.state.records)

    @property
    def rate(self) -> float:
        """The rate of the next step, on a logarithmic scale."""
        return rate_of_step(self.done) * (_ADAMW if self.config.optimizer == "adamw" else 1.0)

    def begin(self, *, resume: bool) -> int:
        """Go back to the checkpoint where there is one. Returns the number of steps already done."""
        checkpoint = load_checkpoint(self.directory, self.checkpoint_name) if resume else None
        if checkpoint is not None:
            require_same_run(checkpoint, self.identity, self.directory)
            restore(checkpoint, self.model, self.optimizer.momentum_tensors, self._learned)
            self.state = checkpoint.state
        self._agree()
        make_folder(self.directory)
        return self.done

    def go(self) -> None:
        """Test until the last rate, or until the loss has turned."""
        with stage("range test for the learning rate", _STEPS, done=self.done, summary=False) as work:
            while not self.state.finished:
                self._epoch(work)
        self._save()

    def _diverged(self, symptom: str) -> Diverged:
        return Diverged(
            f"{symptom} at learning rate {self.rate:.4g}, the lowest of the range test, so a lower one does not help. "
            "Look for infinite numbers in the data, in the weights, and in what the network computes"
            + ("." if self.config.precision == "fp32" else ", or try precision fp32.")
        )

    def _epoch(self, work: Stage) -> None:
        """Steps until the epoch, or the test, ends."""
        state, began = self.state, time.monotonic() - self.state.seconds
        for x, y in self._batches(start=state.step):
            loss = self._loss(x, y)
            if loss is None:
                state.finished = True
                return
            state.records.append({"rate": self.rate, "loss": loss})
            state.step += 1
            state.seconds = time.monotonic() - began
            work.move_to(self.done, detail=f"rate {state.records[-1]['rate']:.2g}")
            state.finished = self.done == _STEPS or has_turned([record["loss"] for record in state.records])
            if state.finished:
                return
            if time.monotonic() - self.saved_at >= self.config.checkpoint_seconds:
                self._save()
        state.epoch, state.step = state.epoch + 1, 0

    def _loss(self, x: Tensor, y: Tensor) -> float | None:
        """The loss of one step; None where it, or its gradient, is not finite: all higher rates are too high.

        Raises Diverged where that happens at the lowest rate.
        """
        try:
            return self._step(x, y)[0]
        except Diverged:
            if self.done == 0:
                raise
            return None

    def result(self) -> RateTest:
        """The choice, from a finished test. Raises TrainingError where the loss falls at no rate."""
        rates = tuple(record["rate"] for record in self.state.records)
        losses = tuple(record["loss"] for record in self.state.records)
        return RateTest(choose_rate(rates, losses), round(self.state.seconds, 3), rates, losses)


def rate_of_step(step: int) -> float:
    """The rate of step ``step``, from 0: equal factors from ``LOWEST`` to ``HIGHEST``."""
    return float(LOWEST * (HIGHEST / LOWEST) ** (step / (_STEPS - 1)))


def running_mean(losses: Sequence[float]) -> list[float]:
    """The exponential running mean of losses, without the bias of its start at zero (Kingma and Ba 2014)."""
    means, total = [], 0.0
    for number, loss in enumerate(losses, start=1):
        total = _SMOOTHING * total + (1 - _SMOOTHING) * loss
        means.append(total / (1 - _SMOOTHING**number))
    return means


def has_turned(losses: Sequence[float]) -> bool:
    """Whether the loss has risen so far above its minimum that higher rates need not be tried."""
    means = running_mean(losses)
    if len(means) <= _WARM:
        return False
    least = min(means[_WARM:])
    # Losses of a user's own may be negative: a share of the fall so far then takes the place of a share of the least.
    scale = least if least > 0 else max(-least, means[_WARM] - least)
    return means[-1] - least > (_TURN - 1) * scale


def choose_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the running mean of the losses has fallen by ``_FALL`` of its whole fall.

    Raises TrainingError where no rate trains.
    """
    means = running_mean(losses)[_WARM:]
    if not means or min(means) >= means[0]:
        raise TrainingError(
            f"the loss falls at no learning rate from {rates[0]:g} to {rates[-1]:.2g}. "
            "Give a rate yourself (lr=0.1, --lr 0.1), or rectify the network first"
        )
    level = means[0] - _FALL * (means[0] - min(means))
    return rates[_WARM + next(step for step, mean in enumerate(means) if mean <= level)]
