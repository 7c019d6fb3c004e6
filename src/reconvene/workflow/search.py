"""Searching widths and bits of a trained artifact; the small network becomes an artifact of its own."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from reconvene import artifact
from reconvene.artifact import Training
from reconvene.artifact.sections import PruningSettings
from reconvene.costs import Budget
from reconvene.data import Dataset
from reconvene.deploy.planned import as_file_computes
from reconvene.errors import TrainingError
from reconvene.models import example_inputs
from reconvene.planning.pruning import plan_of_dense
from reconvene.planning.search.search import search as search_network
from reconvene.surgery import Plan
from reconvene.training import TrainConfig, evaluate_split
from reconvene.training.checkpoint import CHECKPOINT_NAME
from reconvene.training.epoch_batches import TrainingBatches
from reconvene.training.log import LOG_NAME
from reconvene.training.machine import choose_device
from reconvene.utils.locks import alone_in
from reconvene.utils.progress import stage
from reconvene.workflow.prune import Pruning, require_replaceable, set_aside


@dataclass(frozen=True)
class Searching:
    """What is asked of a search, but for the artifact, the budget and the data; as for ``rc.search``."""

    bits: tuple[int, ...] = (0, 2, 4, 8)
    epochs: int = 8
    warmup: int = 0
    finetune: int | None = None
    lr: float = 0.02
    batch_size: int | None = None
    target: str | None = None
    keep: tuple[str, ...] = ()
    round_to: int | None = None
    seed: int = 0
    train_on: str = "auto"
    activation_bits: tuple[int, ...] = (8,)
    device: str | None = None


def search_artifact(
    directory: str | Path,
    output: str | Path,
    dataset: Dataset,
    *,
    budget: Budget,
    searching: Searching = Searching(),  # frozen
    overwrite: bool = False,
    resume: bool = True,
    allow_import: bool = False,
) -> tuple[Plan, Training]:
    """Search widths and bits of the network in ``directory`` and save the small one as the artifact ``output``.

    A search that was stopped goes on from the checkpoint in ``output`` when it is called again with the same arguments.
    Returns the plan, and how good the network with rounded weights is on the test images.

    Args:
        overwrite: whether an artifact in ``output`` that was trained may be replaced.
        resume: whether to go on from a checkpoint; otherwise it is started over.

    Raises BudgetError, ArgumentError, TrainingError, ArtifactError, UnknownNameError.
    """
    folder, source_folder = Path(output), Path(directory)
    with alone_in(folder, error=TrainingError):
        require_replaceable(folder, overwrite=overwrite, resumes=True)
        stored = artifact.Artifact.open(source_folder)
        if not stored.is_trained and not searching.warmup:
            raise TrainingError(
                f"{directory} is not trained, and a search begins with trained weights. First: reconvene train "
                f"{directory}. Or let the search begin with epochs in float: --warmup 5"
            )
        source = stored.source
        assert source.input_shape is not None, "an artifact has one"
        model = artifact.load(source_folder, allow_import=allow_import)
        inputs = example_inputs(source.input_shape, seed=searching.seed)
        config = TrainConfig(seed=searching.seed, batch_size=searching.batch_size, lr=searching.lr)
        began = time.monotonic()
        with stage(f"searching {directory} for {budget}"):
            small = _searched(model, inputs, dataset, budget, searching, config, folder, resume)
        plan: Plan = small.reconvene_plan  # type: ignore[assignment]
        assert plan.bits is not None, "a search decides bits"
        training = _training(small, dataset, searching, time.monotonic() - began)
        if (earlier := getattr(model, "reconvene_plan", None)) is not None:
            dense = source.build(allow_import=allow_import)
            options = Pruning(**asdict(_settings(searching))).options()
            plan = plan_of_dense(dense, inputs, earlier, plan, options)
        sections: dict[str, Any] = {
            "pruning": artifact.PruningRecord(**asdict(_settings(searching)), budget=dict(budget.asked)),
            "training": training.untimed(),
            "preprocessing": dataset.preprocessing.to_dict(),
        }
        with stage(f"saving to {folder}"), set_aside(folder):
            timings = artifact.Timings.of(training, pruning=dict(plan.timings))
            artifact.save(small, folder, plan=plan, source=source, extra=sections, timings=timings)
        for name in (CHECKPOINT_NAME, LOG_NAME):  # in a folder that held no artifact, and so was not set aside
            (folder / name).unlink(missing_ok=True)
        return plan, training


def _searched(
    model: nn.Module,
    inputs: Any,
    dataset: Dataset,
    budget: Budget,
    searching: Searching,
    config: TrainConfig,
    folder: Path,
    resume: bool,
) -> nn.Module:
    device = choose_device(searching.train_on)
    return search_network(
        model.to(device),
        inputs.to(device),
        budget,
        searching.bits,
        train=TrainingBatches(dataset, config),
        epochs=searching.epochs,
        warmup=searching.warmup,
        finetune=searching.finetune,
        lr=searching.lr,
        loss=dataset.task.loss,
        target=searching.target,
        device=searching.device,
        activation_bits=searching.activation_bits,
        keep=searching.keep,
        round_to=searching.round_to,
        seed=searching.seed,
        checkpoint=folder,
        resume=resume,
    ).cpu()


def _settings(searching: Searching) -> PruningSettings:
    return PruningSettings(
        criterion=None,
        evaluator="search",
        rectify="keep",
        round_to=searching.round_to,
        seed=searching.seed,
        keep=searching.keep,
        trained=True,
        bits=searching.bits,
        activation_bits=searching.activation_bits,
        chip=searching.target,
        device=searching.device,
    )


def _training(small: nn.Module, dataset: Dataset, searching: Searching, seconds: float) -> Training:
    """How good the network is with the weights that its file will have."""
    evaluation = evaluate_split(as_file_computes(small, dataset, seed=searching.seed), dataset)
    return Training(
        searching.epochs,
        str(dataset),
        evaluation.metrics,
        evaluation.loss,
        {"search": asdict(searching), "pixels": dataset.sha256},
        parts=evaluation.parts,
        task=dataset.task.name,
        seconds=seconds,
        examples=len(dataset.train),
        warning=evaluation.warning,
    )
