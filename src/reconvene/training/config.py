"""What can be chosen about a training run, and how what was left open is settled."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch

from reconvene.data import Dataset
from reconvene.errors import TrainingError
from reconvene.tasks import Augmentation
from reconvene.training.machine import has_bf16
from reconvene.training.sparsity import parse_sparsity

MIN_STEPS, MIN_BATCH, MAX_BATCH = 32, 8, 128
LATER = ("tail", "sparsity", "optimizer")
"""Options added after the first checkpoints; ``identity`` leaves them out at their default."""
AUTO = "auto"
"""What is found rather than given."""
AUGMENTATIONS = ("auto", "shift", "flip", "shift-flip", "none")


ADAMW_LR, ADAMW_DECAY = 1e-3, 0.05
"""Usual rate and weight decay of adamw."""


@dataclass(frozen=True)
class TrainConfig:
    """The recipe: SGD with Nesterov momentum, weight decay on weights only, label smoothing, one cycle of the rate.

    >>> import reconvene as rc
    >>> rc.TrainConfig(lr=0.05, augment="flip").momentum
    0.9
    """

    seed: int = 0
    """Decides the order of images, their augmentation and dropout."""
    batch_size: int | None = None
    """Images a step, over all processes together. None: 128, halved until small data gives 32 steps an epoch."""
    lr: float | Literal["auto"] = 0.1
    """Highest learning rate. auto: found by a range test of some hundred steps first, see ``training.rate_test``."""
    schedule: Literal["one-cycle", "multi-step"] = "one-cycle"
    """one-cycle: linear warm-up, then a cosine to zero. multi-step: a tenth after half of the run, again after 3/4."""
    warmup: float = 0.25
    """Share of the steps over which the one-cycle learning rate rises."""
    tail: float = 1.0
    """Share of the schedule, from its end, that the run goes through: 0.25 begins where a quarter of it is left, which
    is how a network that was trained before is tuned (learning-rate rewinding, 2003.02389). 1: all of it."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: with Nesterov momentum. adamw: Adam with decoupled weight decay, for which ``lr`` 0.001 and ``weight_decay``
    0.05 are usual: transformers, and networks without norms."""
    momentum: float = 0.9
    """Nesterov momentum; of adamw the decay of the first moment."""
    weight_decay: float = 5e-4
    """Weight decay, on weights of two dimensions and more: not on norms and biases."""
    sparsity: str | None = None
    """A penalty that pulls channels to zero, and its strength: slimming:1e-4 or group_lasso:5e-4. None: none."""
    clip: float | None = 2.0
    """Longest gradient (norm over all weights); a longer one is scaled down to it. None: no limit."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over all classes; tasks without classes have nothing to spread it over."""
    augment: Literal["auto", "shift", "flip", "shift-flip", "none"] = "auto"
    """Random changes of training images. auto: what suits the dataset (characters are not flipped)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the training step. auto: bfloat16 autocast where the processor computes in it, else float32."""
    channels_last: bool = True
    """Keep images and convolution weights channels-last in memory while training, where PyTorch does so safely."""
    compile: bool = False
    """Compile the model with torch.compile first: slow to start, faster in long runs."""
    device: str = "auto"
    """Where to train: cpu, cuda, cuda:1, ... auto: a CUDA device if there is one."""
    checkpoint_seconds: float = 30.0
    """Write a checkpoint at least this often, and after every epoch."""

    def settled(
        self, dataset: Dataset, *, device: torch.device, processes: int = 1, found_rate: float | None = None
    ) -> Settled:
        """The same recipe with nothing left open: batch size, augmentation, precision and device are decided.

        ``found_rate`` stands for a learning rate that was left to a range test.

        Raises:
            TrainingError: a value that cannot work, named with what would.
        """
        self.check()
        n = len(dataset.train)
        size = self.batch_size if self.batch_size is not None else _batch_size(n, processes)
        if not 2 * processes <= size <= n or size % processes:
            raise TrainingError(
                f"batch_size {size} does not work for {n} training images on {processes} process(es): "
                f"it must be from {2 * processes} to {n} and a multiple of {processes}."
            )
        augment = _augment(dataset.augmentation) if self.augment == "auto" else self.augment
        precision = self.precision if self.precision != "auto" else "bf16" if has_bf16(device) else "fp32"
        lr = found_rate if self.lr == AUTO else self.lr
        decided = {"batch_size": size, "augment": augment, "precision": precision, "device": device.type, "lr": lr}
        return Settled(**{**asdict(self), **decided})

    def augmentation(self, dataset: Dataset) -> Augmentation:
        """What ``augment`` means for this dataset."""
        pad = dataset.augmentation.pad or max(1, min(dataset.shape[1:]) // 8)
        choices = {
            "auto": dataset.augmentation,
            "shift": Augmentation(pad),
            "flip": Augmentation(flip=True),
            "shift-flip": Augmentation(pad, flip=True),
            "none": Augmentation(),
        }
        return choices[self.augment]

    def identity(self) -> dict[str, Any]:
        """The choices that make a run this one. How often it saves does not; nor does a choice that older runs had not.

        What was chosen in the usual way since it became a choice is left out, so that older runs are still the same.
        """
        usual = {entry.name: entry.default for entry in fields(TrainConfig)}
        choices = {name: value for name, value in asdict(self).items() if name != "checkpoint_seconds"}
        return {name: value for name, value in choices.items() if name not in LATER or value != usual[name]}

    def check(self) -> None:
        """Raise TrainingError for a value that cannot work."""
        if broken := self.broken_rules():
            raise TrainingError(f"cannot train with {self}: {'; '.join(broken)}.")

    def broken_rules(self) -> list[str]:
        """What must be and is not, a sentence a rule; empty where all values can work."""
        wrong = {
            "batch_size must be above 0": self.batch_size is not None and self.batch_size < 1,
            "lr must be above 0, or auto": self.lr != AUTO and not _is_rate(self.lr),
            "warmup must be in [0, 1)": not 0 <= self.warmup < 1,
            "tail must be above 0 and at most 1": not 0 < self.tail <= 1,
            "clip must be above 0": self.clip is not None and not self.clip > 0,
            "momentum must be in (0, 1)": not 0 < self.momentum < 1,
            "weight_decay must not be negative": not self.weight_decay >= 0,
            "label_smoothing must be in [0, 1)": not 0 <= self.label_smoothing < 1,
            "checkpoint_seconds must not be negative": not self.checkpoint_seconds >= 0,
            "seed must not be negative": self.seed < 0,
            "schedule must be one-cycle or multi-step": self.schedule not in ("one-cycle", "multi-step"),
            "augment must be auto, shift, flip, shift-flip or none": self.augment not in AUGMENTATIONS,
            "optimizer must be sgd or adamw": self.optimizer not in ("sgd", "adamw"),
            "precision must be auto, bf16 or fp32": self.precision not in ("auto", "bf16", "fp32"),
        }
        penalty = _wrong_penalty(self.sparsity)
        return [*(rule for rule, broken in wrong.items() if broken), *([penalty] if penalty else [])]


@dataclass(frozen=True)
class Settled(TrainConfig):
    """A recipe with nothing left open."""

    batch_size: int = MAX_BATCH
    lr: float = 0.1


def learning_rate(config: Settled, step: float, total: float) -> float:
    """The rate of step ``step`` (from 0) of ``total``: a function of nothing else, so checkpoints hold no scheduler."""
    if config.tail < 1:  # the last ``total`` steps of a longer run
        step, total = step + total / config.tail - total, total / config.tail
    if config.schedule == "multi-step":
        return config.lr * 0.1 ** (2 * step >= total) * 0.1 ** (4 * step >= 3 * total)
    rising = config.warmup * total
    if step < rising:
        return config.lr * (step + 1) / (rising + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(total - rising, 1)))


def _wrong_penalty(text: str | None) -> str:
    """What is wrong with the penalty of ``sparsity``; empty where nothing is."""
    try:
        _ = text is None or parse_sparsity(text)
    except TrainingError as error:
        return str(error).rstrip(".")
    return ""


def _augment(augmentation: Augmentation) -> Literal["shift", "flip", "shift-flip", "none"]:
    """The word for what suits a dataset."""
    if augmentation.pad:
        return "shift-flip" if augmentation.flip else "shift"
    return "flip" if augmentation.flip else "none"


def _is_rate(value: object) -> bool:
    """Whether a value can be a learning rate."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _batch_size(n: int, processes: int) -> int:
    size = MAX_BATCH
    while size > MIN_BATCH and n // size < MIN_STEPS:
        size //= 2
    return max(min(size, n) // processes * processes, processes)
