"""One training run: the working copy of the model, its optimizer, and where it is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.artifact.tensors import module_versions
from reconvene.data import Dataset, train_batches
from reconvene.data.batches import Batch
from reconvene.data.trial import try_model
from reconvene.errors import Diverged, TrainingError
from reconvene.structure.copies import copy_model
from reconvene.structure.fresh import begin_afresh
from reconvene.structure.state import known_state, remember_state
from reconvene.surgery.operations import blend_penalty, blends, describe_blends, move_blends
from reconvene.tasks import Evaluation
from reconvene.training.checkpoint import (
    CHECKPOINT_NAME,
    Stateful,
    TrainingState,
    all_tensors,
    load_checkpoint,
    make_folder,
    require_same_run,
    restore,
    save_checkpoint,
    sha256,
)
from reconvene.training.config import Settled, learning_rate
from reconvene.training.distillation import Distillation, task_alone, with_teacher
from reconvene.training.evaluate import evaluate_split, outputs_in_float32
from reconvene.training.growing import Growing
from reconvene.training.log import append_log, rewrite_log
from reconvene.training.machine import describe_machine, library_versions
from reconvene.training.memory_format import put_in_channels_last
from reconvene.training.optimizer import AdamW, Nesterov
from reconvene.training.parallel import World
from reconvene.training.quantising import Quantising
from reconvene.training.randomness import seed_step
from reconvene.training.sparsity import Sparsity
from reconvene.training.statistics import Recalibration, refresh_statistics
from reconvene.utils.progress import Stage, stage


class TrainingRun:
    """One run over ``epochs``. ``config`` is settled; ``state`` says how far it is."""

    checkpoint_name = CHECKPOINT_NAME

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        *,
        epochs: int,
        directory: Path,
        config: Settled,
        device: torch.device,
        world: World,
        distillation: Distillation | None = None,
        quantising: Quantising | None = None,
        growing: Growing | None = None,
        rate_test: dict[str, Any] | None = None,
    ) -> None:
        self.original, self.dataset, self.epochs, self.directory = model, dataset, epochs, directory
        self.config, self.device, self.world = config, device, world
        self.task = dataset.task
        self.steps = len(dataset.train) // config.batch_size
        self.model = copy_model(model).to(device).train()
        few = dataset.normalise(dataset.train.images[:2].to(device))
        self.channels_last = config.channels_last and put_in_channels_last(
            self.model, few, device=device, precision=config.precision
        )
        world.copy_from_first(self.model)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise TrainingError("the model has no trainable parameters.")
        try_model(self.model, dataset)
        self.rounded = None if quantising is None else quantising.rounded(self.model, self._images())
        self.network = self.model if self.rounded is None else self.rounded
        """What is trained and evaluated: the model, or the model with rounding, on the same parameters."""
        if self.rounded is not None and self.rounded.network is self.model:
            inner = (replace(item, module=f"network.{item.module}".rstrip(".")) for item in known_state(self.model))
            remember_state(self.rounded, inner)
        self.forward = torch.compile(self.model) if config.compile else self.network
        kind = AdamW if config.optimizer == "adamw" else Nesterov
        self.optimizer = kind(self.model, momentum=config.momentum, weight_decay=config.weight_decay)
        self.sparsity = None if config.sparsity is None else Sparsity(self.model, self._images()[:2], config.sparsity)
        self.buffers = [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        self.objective, self.distilled = task_alone(self.task, config), distillation is not None
        if distillation is not None:
            distillation.check(config)
            try_model(distillation.teacher, dataset, role="the teacher")
            self.objective = with_teacher(distillation, self.model, self.task, config, few)
        self.blends = list(blends(self.model).values())
        self.identity = self._identity() | ({} if distillation is None else {"distillation": distillation.to_dict()})
        self.identity |= {"blends": describe_blends(self.model)} if self.blends else {}
        self.identity |= {} if quantising is None else {"quantisation-aware": quantising.to_dict()}
        self.identity |= {} if growing is None else {"growing": growing.to_dict()}
        self.masks = None if growing is None else growing.masked(self.model, self._images())
        self.rate_test = {} if rate_test is None else {"rate_test": rate_test}
        self.state = TrainingState()
        self.saved_at = time.monotonic()

    @property
    def evaluation(self) -> Evaluation:
        """The test split after the last epoch; before that, of the split that choices are made by."""
        if self.state.evaluation is None:
            raise TrainingError("no epoch is finished, so nothing was evaluated.")
        return self.task.evaluation(self.state.evaluation)

    @property
    def done(self) -> int:
        """Steps done since the run was first started."""
        return self.state.epoch * self.steps + self.state.step

    @property
    def rate(self) -> float:
        """The learning rate of the next step; after the last one, of the last."""
        total = self.epochs * self.steps
        return learning_rate(self.config, min(self.done, total - 1), total)

    @property
    def _learned(self) -> dict[str, Stateful]:
        """What is learned beside the model."""
        parts: dict[str, Stateful | None] = {
            "rounding": None if self.rounded is None else self.rounded.rounding,
            "masks": self.masks,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _images(self) -> Tensor:
        """Images as a step sees them."""
        images = self.dataset.normalise(self.dataset.train.images[: self.config.batch_size].to(self.device))
        return images if self.channels_last else images.contiguous()

    def begin(self, *, resume: bool) -> int:
        """Go back to the checkpoint, or start the log of a fresh run. Returns the number of steps already done."""
        checkpoint = load_checkpoint(self.directory) if resume else None
        if checkpoint is not None:
            require_same_run(checkpoint, self.identity, self.directory)
            restore(checkpoint, self.model, self.optimizer.momentum_tensors, self._learned)
            self.state = checkpoint.state
        else:
            self.state.records.append(self._header())
        self._agree()
        make_folder(self.directory)
        if self.world.rank == 0:
            if checkpoint is None:
                (self.directory / CHECKPOINT_NAME).unlink(missing_ok=True)
            rewrite_log(self.directory, self.state.records)
        return self.done

    def _agree(self) -> None:
        """See that all processes begin at the same step. Raises TrainingError."""
        if not self.world.agrees_on(self.done, self.device):
            raise TrainingError(
                f"the processes do not see the same checkpoint: all of them must share {self.directory}."
            )

    def go(self) -> None:
        """Train until the last epoch is done, then give the original model the weights."""
        total = self.epochs * self.steps
        with stage("steps", total, done=self.done, summary=False) as work:
            while not self.state.finished:
                self._epoch(work)
                self._end_epoch()
        self.original.load_state_dict(self.model.state_dict())

    def _epoch(self, work: Stage) -> None:
        state, began = self.state, time.monotonic() - self.state.seconds
        for x, y in self._batches(start=state.step):
            loss, correct = self._step(x, y)
            state.step += 1
            state.loss_sum += loss * self.config.batch_size
            state.correct = None if correct is None else (state.correct or 0) + correct
            state.seen += self.config.batch_size
            state.seconds = time.monotonic() - began
            if time.monotonic() - self.saved_at >= self.config.checkpoint_seconds and state.step < self.steps:
                self._save()
            work.advance(detail=f"epoch {state.epoch + 1}/{self.epochs}, loss {state.loss_sum / state.seen:.3f}")

    def _batches(self, *, start: int) -> Iterator[Batch]:
        """The batches of the epoch in progress for this process, from step ``start`` on."""
        return train_batches(
            self.dataset,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epoch=self.state.epoch,
            augmentation=self.config.augmentation(self.dataset),
            start=start,
            shard=self.world.shard,
            device=self.device,
            channels_last=self.channels_last,
        )

    def _step(self, x: Tensor, y: Tensor) -> tuple[float, float | None]:
        """One step of SGD; the loss over the whole batch, of all processes, and the headline where it is cheap."""
        seed_step(self.device, self.config.seed, self.done, self.world.rank)
        if self.rounded is not None:
            self.rounded.at(self.done / (self.epochs * self.steps))
        move_blends(self.blends, self.done / (self.epochs * self.steps))
        begin_afresh(self.model, x)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"):
            output = self.forward(x.clone() if self.distilled else x)  # the teacher reads it, too
        output = outputs_in_float32(output)
        loss = self.objective(x, output, y) + blend_penalty(self.blends)
        loss.backward()  # type: ignore[no-untyped-call]
        correct = self.task.correct(output, y)
        facts = torch.stack([loss.detach()] + ([] if correct is None else [correct * float(self.world.size)]))
        self.world.average([*self.optimizer.gradients, *self.buffers, facts])
        value, *right = facts.tolist()
        if not math.isfinite(value):
            raise self._diverged(f"the training loss became {value}")
        if self.sparsity is not None:
            self.sparsity.add_gradients()
        norm = self.optimizer.clip(self.config.clip)
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm became {norm}")
        self.optimizer.step(self.rate)
        if self.masks is not None:
            self.masks.step((self.done + 1) / (self.epochs * self.steps))
        return value, right[0] if right else None

    def _end_epoch(self) -> None:
        """Evaluate, log, checkpoint: in this order, so that a log line without its checkpoint is cut off on resume."""
        state, began = self.state, time.monotonic()
        recalibration = self._recalibrate()
        split, last = self.dataset.choosing, state.epoch + 1 == self.epochs
        results = {split: evaluate_split(self.network, self.dataset, split=split, world=self.world)}
        if last and split != "test":
            results["test"] = evaluate_split(self.network, self.dataset, world=self.world)
        for name, result in results.items():
            if not math.isfinite(result.loss):
                raise self._diverged(f"the {name} loss became {result.loss}")
        total = self.epochs * self.steps
        record = {
            "event": "epoch",
            "epoch": state.epoch + 1,
            "step": self.done,
            "lr": learning_rate(self.config, self.done - 1, total),
            "train_loss": state.loss_sum / state.seen,
            **({} if state.correct is None else {f"train_{self.task.headline}": state.correct / state.seen}),
            **{
                f"{name}_{measure}": value
                for name, result in results.items()
                for measure, value in (("loss", result.loss), *result.metrics.items())
            },
            "recalibration": None if recalibration is None else recalibration.to_dict(),
            "seconds": round(state.seconds + time.monotonic() - began, 3),
            "samples_per_second": round(state.seen / max(state.seconds, 1e-9), 1),
        }
        if self.world.rank == 0:
            append_log(self.directory, record)
        self.state = TrainingState(
            epoch=state.epoch + 1,
            finished=last,
            evaluation=(results["test"] if last else results[split]).to_dict(),
            records=[*state.records, record],
        )
        self._save()

    def _recalibrate(self) -> Recalibration | None:
        """Renew norm statistics that lag, on the batches that the epoch began with: a resumed run does the same."""
        seed_step(self.device, self.config.seed, self.done, self.world.rank)
        return refresh_statistics(
            self.model if self.rounded is None else self.rounded.renewing(),
            self.task,
            self._batches(start=0),
            steps=self.done,
            batch_size=self.config.batch_size,
            world=self.world,
        )

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.world.rank == 0:
            tensors = all_tensors(self.model, self.optimizer.momentum_tensors, self._learned)
            versions = module_versions(self.model.state_dict())
            save_checkpoint(self.directory, self.identity, self.state, tensors, versions, name=self.checkpoint_name)

    def _identity(self) -> dict[str, Any]:
        """The settings that identify this run. The interval between checkpoints is not one of them."""
        return {
            "epochs": self.epochs,
            **self.config.identity(),
            "processes": self.world.size,
            "dataset": str(self.dataset),
            "pixels": self.dataset.sha256,
            **self.dataset.given_normalisation,
            **self.task.identity(),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "weights": sha256(self.model.state_dict()),
        }

    def _header(self) -> dict[str, Any]:
        return {
            "event": "start",
            "epochs": self.epochs,
            "steps_per_epoch": self.steps,
            "config": asdict(self.config),
            "seed": self.config.seed,
            "dataset": str(self.dataset),
            "dataset_sha256": self.dataset.sha256,
            "parameters": self.identity["parameters"],
            "weights_sha256": self.identity["weights"],
            "processes": self.world.size,
            "distillation": self.identity.get("distillation"),
            "quantisation-aware": self.identity.get("quantisation-aware"),
            "growing": self.identity.get("growing"),
            "libraries": library_versions(),
            "machine": describe_machine(self.device),
            **self.rate_test,
        }

    def _diverged(self, symptom: str) -> Diverged:
        return Diverged(
            f"{symptom} in epoch {self.state.epoch + 1}, step {self.done + 1}, at learning rate {self.rate:.4g} "
            f"({self.config.precision}). Try: a lower lr (now {self.config.lr:g}), "
            + ("" if self.config.precision == "fp32" else "precision fp32, ")
            + "or rectify the network before training. "
            f"The last good state, if there was a checkpoint yet, is in {self.directory / CHECKPOINT_NAME}."
        )
