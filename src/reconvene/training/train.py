"""Train a model, or go on where a killed run stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from reconvene.data import Dataset
from reconvene.errors import TrainingError
from reconvene.quantiser.activations import Range
from reconvene.tasks import Evaluation
from reconvene.training.config import AUTO, TrainConfig
from reconvene.training.distillation import Distillation
from reconvene.training.growing import Growing, check_growing
from reconvene.training.log import LOG_NAME
from reconvene.training.machine import choose_device
from reconvene.training.parallel import join_world, local_rank
from reconvene.training.quantising import Quantising, check_quantising, settle_precision
from reconvene.training.randomness import own_randomness
from reconvene.training.rate_test import HIGHEST, RateTest, find_rate, remove_checkpoint
from reconvene.training.run import TrainingRun
from reconvene.utils.numbers import plural


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. ``records`` are the lines of ``log``; ``seconds`` count all its parts if it was interrupted.

    ``resumed_at`` is the number of steps that were already done when this call began: 0 for a fresh run.
    """

    evaluation: Evaluation
    epochs: int
    steps: int
    seconds: float
    resumed_at: int
    log: Path
    records: tuple[dict[str, Any], ...]
    ranges: dict[str, Range] | None = None
    """Of quantisation-aware training: scale and zero point by what puts a tensor out."""
    cut: nn.Module | None = None
    """Of training with masks: the network without the masked channels."""

    @property
    def score(self) -> float:
        """The task's headline on the test split: of a classifier its accuracy in [0, 1]."""
        return self.evaluation.score

    @property
    def recalibration(self) -> dict[str, Any] | None:
        """Of norm statistics after the last epoch; None where they did not lag. See ``training.statistics``."""
        recalibration: dict[str, Any] | None = self.records[-1].get("recalibration")
        return recalibration

    @property
    def rate_test(self) -> RateTest | None:
        """The range test that found the learning rate; None where that was given. Its seconds are beside the others."""
        values = self.records[0].get("rate_test")
        return None if values is None else RateTest.from_dict(values)

    def __str__(self) -> str:
        test = "" if self.rate_test is None else f", and {self.rate_test}"
        return f"{plural(self.epochs, 'epoch')} in {self.seconds:.1f} s{test}: {self.evaluation}"


def train_model(
    model: nn.Module,
    dataset: Dataset,
    *,
    epochs: int,
    directory: str | os.PathLike[str],
    config: TrainConfig | None = None,
    distillation: Distillation | None = None,
    quantising: Quantising | None = None,
    growing: Growing | None = None,
    resume: bool = True,
) -> TrainResult:
    """Train ``model`` on ``dataset``: its weights and buffers change at the end, its modes, device and layout never.

    ``directory`` gets ``train.jsonl`` and ``checkpoint.safetensors``. A run that was killed goes on from its checkpoint
    when called again with the same arguments, to the same bits as if it had never stopped (on the same kind of machine
    with the same number of threads); a finished one returns at once. ``resume=False`` starts over. Under ``torchrun``
    every process calls this with the same arguments; ``batch_size`` is of all together, the first process writes. The
    global random state is left as it was. ``config`` ``None`` is the default recipe. With ``distillation`` the model
    learns from a teacher as well as from the targets, and the logged training loss is that of both. With ``quantising``
    (``reconvene.deploy.QuantisationAware``) weights and activations are rounded as in int8 while it is trained, the
    evaluation is that of the rounded network, and the result has the ``ranges`` for an export. The model stays float32.
    With ``growing`` (``reconvene.planning.regrowth.growing.GoalGrowing``) channels leave and come back under masks, the
    evaluation is that of the masked network, and the result has the network that is ``cut`` in the end.

    A ``config`` with ``lr="auto"`` trains a copy of the model for up to 200 steps first, at rising rates, and takes the
    rate from there: see ``reconvene.training.rate_test``. That test, too, goes on where it was killed.

    Where norm statistics lag behind the weights at the end of an epoch, they are taken anew from training images, and
    the epoch's record says so: see ``reconvene.training.statistics``.

    Raises:
        TrainingError: the loss is not finite, the data is empty, the task cannot read the outputs, the folder cannot
            be written, or its checkpoint belongs to another run.
        ExportError: a model that torch.export cannot take, with ``quantising``.
    """
    if epochs < 1:
        raise TrainingError(f"epochs must be at least 1, not {epochs}.")
    for split, images in (("training", dataset.train), ("test", dataset.test)):
        if not len(images):
            raise TrainingError(f"{dataset.name} has no {split} images.")
    config = TrainConfig() if config is None else config
    if quantising is not None:
        check_quantising(config, distillation)
        config = settle_precision(config)
    device = choose_device(config.device, local_rank=local_rank())
    world = join_world(device)
    if growing is not None:
        check_growing(config, world.size, quantising)
    options: dict[str, Any] = {
        "epochs": epochs,
        "directory": Path(directory),
        "device": device,
        "world": world,
        "distillation": distillation,
        "quantising": quantising,
    }
    with own_randomness(device):
        recipe = config.settled(dataset, device=device, processes=world.size, found_rate=HIGHEST)
        test = None
        if config.lr == AUTO:
            test = find_rate(model, dataset, config=recipe, resume=resume, **options)
            recipe, options["rate_test"] = replace(recipe, lr=test.rate), test.to_dict()
        run = TrainingRun(model, dataset, config=recipe, growing=growing, **options)
        resumed_at = run.begin(resume=resume)
        run.go()
        cut = None if run.masks is None else run.masks.cut().cpu()
    if test is not None and world.rank == 0:
        remove_checkpoint(Path(directory))
    return TrainResult(
        evaluation=run.evaluation,
        epochs=epochs,
        steps=epochs * run.steps,
        seconds=sum(record["seconds"] for record in run.state.records[1:]),
        resumed_at=resumed_at,
        log=Path(directory) / LOG_NAME,
        records=tuple(run.state.records),
        ranges=None if run.rounded is None else dict(run.rounded.ranges()),
        cut=cut,
    )
