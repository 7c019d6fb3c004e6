"""From a model's address to an artifact that keeps every budget."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reconvene import artifact
from reconvene.artifact.sections import PruningSettings
from reconvene.costs import Budget
from reconvene.criteria import CHANNEL_CRITERIA, CRITERIA
from reconvene.criteria.base import Loss
from reconvene.data import Batch, Calibration, Dataset, Normalisation, calibration, stratified_calibration
from reconvene.data.calibration import TRAINED_SAMPLES
from reconvene.data.trial import try_model
from reconvene.deploy import FORMATS
from reconvene.errors import ArtifactError, UnknownNameError
from reconvene.evaluator.evaluators import EVALUATORS
from reconvene.models import ModelSource, example_inputs
from reconvene.planning.limits import LayerLimits
from reconvene.planning.options import Options
from reconvene.planning.pruning import plan_of_dense, prune_by
from reconvene.planning.target import Target
from reconvene.rectifier import RECTIFICATIONS
from reconvene.surgery import Plan
from reconvene.tasks import DEFAULT, Task
from reconvene.training.checkpoint import CHECKPOINT_NAME
from reconvene.training.log import LOG_NAME
from reconvene.utils.files import unwritable
from reconvene.utils.progress import note, stage
from reconvene.workflow.inputs import preparation
from reconvene.workflow.origin import DENSE, Origin
from reconvene.workflow.pictures import PICTURES

BENCH, REPORT, COMMAND = "bench.json", "report.html", "command.txt"
_ASIDE = ".replaced"
_DERIVED = (CHECKPOINT_NAME, LOG_NAME, BENCH, REPORT, artifact.TIMINGS, COMMAND, PICTURES)


class Pruning(PruningSettings):
    """What was asked of a pruning, but for the model and the budget: all that decides the result.

    >>> import reconvene as rc
    >>> rc.Pruning(criterion="magnitude", rectify="rescale").seed
    0
    """

    def options(self, data: Samples | None = None, task: Task = DEFAULT) -> Options:
        """These options as planning takes them."""
        return Options(
            criterion=self.criterion,
            data=data,
            seed=self.seed,
            evaluator=self.evaluator,
            trained=self.trained,
            loss=None if data is None else data.loss_for(task.name, trained=self.trained),
            limits=LayerLimits(self.keep),
            round_to=self.round_to,
            target=Target(self.device, self.size_of, self.memory_of, self.precision, self.chip),
            bits=self.bits,
            activation_bits=self.activation_bits,
        )

    def check(self) -> None:
        """Raise UnknownNameError now for what would only be looked up after a while."""
        registries = (
            ("criterion", self.criterion, {**CRITERIA, **CHANNEL_CRITERIA}),
            ("evaluator", self.evaluator, EVALUATORS),
            ("way to rectify", self.rectify, RECTIFICATIONS),
        )
        for subject, name, registry in registries:
            if name is not None and name not in registry:
                raise UnknownNameError(subject, name, registry)


def prune_artifact(
    source: ModelSource,
    directory: str | Path,
    *,
    budget: Budget,
    pruning: Pruning = Pruning(),  # noqa: B008  # frozen
    data: Callable[[], Dataset] | None = None,
    task: Task = DEFAULT,
    base: Path | None = None,
    weights: Path | None = None,
    normalisation: Normalisation | None = None,
    examples: int | None = None,
    overwrite: bool = False,
    allow_import: bool = False,
) -> Plan:
    """Build the model, prune it to ``budget``, rectify it, and save it as an artifact. Returns the plan.

    The plan is always one of the dense model of ``source``, also where ``base`` was pruned before.

    Args:
        data: where criteria that need data get it from; it is only called for those.
        task: what the data is for: criteria that need a loss take that of the data's task.
        examples: training images of an epoch, by which the plan tells what one costs; by default those of ``data``
            where that was called.
        overwrite: whether an artifact that was trained already may be replaced.
        base: artifact of the trained network that is pruned; by default the model of ``source``.
        weights: file with the weights of the model of ``source``, as ``load_weights`` reads them.
        normalisation: how images were normalised for the weights, where the artifact of ``base`` does not say it.

    Raises BudgetError, StructureError, CriterionError, DeviceError, UnknownNameError, ArtifactError, ModelError.
    """
    folder = Path(directory)
    pruning.check()
    origin = Origin(source, base, weights, normalisation)
    origin.require_other_folder(folder)
    require_replaceable(folder, overwrite=overwrite)
    assert source.input_shape is not None, "resolve_address() fills it in"
    with stage(f"building {source.address}"):
        model = origin.build(allow_import=allow_import)
    earlier: Plan | None = getattr(model, "reconvene_plan", None)
    if earlier is not None and earlier.bits is not None and pruning.bits is None:
        raise ArtifactError(
            f"{base} has a plan of bits, which a cut without bits would lose. Decide both again: --bits 0,2,4,8. Or "
            "prune the artifact that the bits were decided for"
        )
    inputs = example_inputs(source.input_shape, seed=pruning.seed)
    samples = None if data is None else Samples(data, seed=pruning.seed, most=TRAINED_SAMPLES * pruning.trained)
    if samples is not None and pruning.trained:
        samples.try_on(model, base)
    with stage(f"pruning to {budget}"):
        options = pruning.options(samples, task)
        small, plan, report = prune_by(model, inputs, budget, options, rectify=pruning.rectify)
        if earlier is not None:
            dense = source.build(allow_import=allow_import)
            plan = plan_of_dense(dense, inputs, earlier, plan, options)
    plan = replace(plan, examples=samples.examples if examples is None and samples is not None else examples)
    ratios = {row.layer: row.ratio for row in report.rows if row.ratio is not None}
    settings = replace(record_of(pruning, budget), spread=ratios)
    with stage(f"saving to {folder}"), set_aside(folder):
        origin.save_cut(small, model, folder, plan, settings)
    return plan


def record_of(pruning: Pruning, budget: Budget) -> artifact.PruningRecord:
    """What an artifact keeps of what was asked."""
    return artifact.PruningRecord(**asdict(pruning), budget=dict(budget.asked))


def require_replaceable(folder: Path, *, overwrite: bool, resumes: bool = False) -> None:
    """Raise ArtifactError where nothing can be written to ``folder``, or somebody would lose a trained model.

    ``resumes``: a checkpoint in the folder is the caller's own, and stands in no way.
    """
    if why := unwritable(folder / artifact.MANIFEST):
        raise ArtifactError(f"cannot write to {folder}: {why}")
    _put_back(folder)
    if overwrite or not (folder / artifact.MANIFEST).exists():
        return
    stored = artifact.Artifact.open(folder)
    unfinished = (folder / CHECKPOINT_NAME).exists() and not resumes
    if stored.training is not None or unfinished or (stored.is_trained and stored.plan is None):
        raise ArtifactError(f"{folder} holds a model that was trained. Choose another folder, or --overwrite it")


@contextmanager
def set_aside(folder: Path) -> Iterator[None]:
    """Keep what was made from an artifact out of the way while that is replaced: it would be taken for the new one's.

    Where the replacing fails everything comes back; where it succeeds everything goes. A process that is killed in
    between leaves it in ``_ASIDE``, from where the next call puts it back if the artifact is still the old one. Files
    in a folder without an artifact are not ours, and stay.
    """
    backup, manifest = folder / _ASIDE, folder / artifact.MANIFEST
    names = _made_from(folder) if manifest.exists() else []
    try:
        if backup.exists():
            shutil.rmtree(backup)
        if names:
            backup.mkdir()
            shutil.copyfile(manifest, backup / artifact.MANIFEST)  # of which artifact they are
        for name in names:
            os.replace(folder / name, backup / name)
        yield
    except BaseException as error:
        _put_back(folder)
        if isinstance(error, OSError):
            raise ArtifactError(f"cannot replace what is in {folder}: {error.strerror or error}") from error
        raise
    if names:
        shutil.rmtree(backup)
    if missed := [name for name in names if name not in (artifact.TIMINGS, COMMAND)]:
        note(f"removed with the network that was in {folder}: {', '.join(missed)}")


def _made_from(folder: Path) -> list[str]:
    """Names of the files and folders that were made from an artifact."""
    names = [name for name in _DERIVED if (folder / name).exists()] + _exported(folder)
    return names + ([DENSE] if (folder / DENSE / artifact.MANIFEST).exists() else [])


def _put_back(folder: Path) -> None:
    """Undo a replacement that was not finished: its artifact can be in place, and what was set aside is not its own."""
    backup, manifest = folder / _ASIDE, folder / artifact.MANIFEST
    earlier = backup / artifact.MANIFEST
    if not (earlier.exists() and manifest.exists() and earlier.read_bytes() == manifest.read_bytes()):
        return
    for path in sorted(backup.iterdir()):
        if path.name != artifact.MANIFEST and not (folder / path.name).exists():
            os.replace(path, folder / path.name)
    shutil.rmtree(backup)


def _exported(folder: Path) -> list[str]:
    """Names of the files that exporting left, of whatever runtime and precision."""
    endings = (*(runtime.suffix for runtime in FORMATS.values()), ".bin", ".data")
    names = [path.name for stem in ("model", "dense") for path in folder.glob(f"{stem}.*") if path.is_file()]
    return sorted(name for name in names if name.endswith(endings))


class Samples:
    """A few training images of every class, which are only loaded for a criterion that looks at them.

    ``most``: how many images at most, every class in its proportion; by default ten a class.
    """

    def __init__(self, data: Callable[[], Dataset], *, seed: int, most: int = 0) -> None:
        self._data, self._seed, self._most = data, seed, most
        self.examples: int | None = None
        """Training images in the whole of the data, once it was loaded."""

    @property
    def was_read(self) -> bool:
        """Whether anything was asked of the data."""
        return "_dataset" in self.__dict__

    def loss(self, output: Any, target: Any) -> Tensor:
        """The loss of the data's task."""
        return self._dataset.task.loss(output, target)

    def loss_for(self, task: str | None, *, trained: bool) -> Loss | None:
        """The loss that criteria take; None: their own cross entropy, at a temperature, for untrained classifiers."""
        return self.loss if trained or task not in (None, DEFAULT.name) else None

    def try_on(self, model: nn.Module, base: Path | None = None) -> None:
        """Find out before anything is scored whether the model takes the images and the task reads its outputs.

        ``base``: the artifact of the model, if it is of one. Raises TrainingError, and DataError for data of another
        task or of other classes than the artifact was trained on.
        """
        if base is not None:
            preparation(artifact.Artifact.open(base), self._dataset)
        try_model(model, self._dataset)

    @cached_property
    def _dataset(self) -> Dataset:
        return self._data()

    @cached_property
    def _calibration(self) -> Calibration:
        dataset = self._dataset
        self.examples = len(dataset.train)
        if not self._most:
            return calibration(dataset, seed=self._seed)
        return stratified_calibration(dataset, self._most, seed=self._seed)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._calibration

    def __len__(self) -> int:
        return len(self._calibration)

    def __str__(self) -> str:
        return str(self._calibration)
