"""The whole way in one call: prune, train dense and pruned alike, export and verify both, time them, report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from reconvene import artifact
from reconvene.costs import COSTS, Budget
from reconvene.data import Dataset
from reconvene.deploy import Exported, Verification
from reconvene.deploy.sharing import shared_conversions
from reconvene.errors import ExportError, VerificationError
from reconvene.models import ModelSource
from reconvene.tasks import DEFAULT, Task, task_named
from reconvene.training import TrainConfig
from reconvene.utils.progress import ProgressOption, listening
from reconvene.utils.tables import text_table, times
from reconvene.workflow.deploy import Int8, bench, export_artifact
from reconvene.workflow.inputs import DataLike, model_and_data
from reconvene.workflow.origin import DENSE
from reconvene.workflow.pictures import draw_predictions, write_pictures
from reconvene.workflow.prune import Pruning, prune_artifact, record_of
from reconvene.workflow.report import read_bench, report, scores
from reconvene.workflow.train import Lesson, train
from reconvene.workflow.variants import variants


@dataclass(frozen=True)
class Outcome:
    """Dense beside pruned, and where everything is.

    Attributes:
        costs: ``{"dense": {...}, "pruned": {...}}`` with ``params``, ``macs``, ``size`` and ``peak_memory`` (bytes),
            ``latency`` (seconds in ONNX Runtime, batch of one, one thread), and the task's headline by its name:
            ``accuracy`` (in [0, 1]) of a classifier.
            ``int8_size``, ``int8_latency`` and ``int8_agreement`` (with float32, in [0, 1]) where int8 could be made.
        speedups: median over rounds of dense time over pruned, each pair from the same round, as the report has it:
            ``latency`` (both in float32), ``int8_latency`` (both in int8), ``int8_gain`` (float32 over int8).
        notes: what a reader must know of the trained networks: recalibrated norm statistics, and warnings of one that
            answers one class or is at chance.
        verified: largest relative error of each exported file against PyTorch.
        int8: why a variant's int8 file was not kept, by variant; ``None`` where none was asked for.
    """

    model: str
    folder: Path
    report: Path
    dataset: str
    costs: dict[str, dict[str, float]]
    verified: dict[str, float]
    int8: dict[str, str] | None = None
    speedups: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    task: str = DEFAULT.name

    def __str__(self) -> str:
        dense, pruned = self.costs["dense"], self.costs["pruned"]
        int8 = {f"int8_{name}": (f"int8 {COSTS[name].label.lower()}", COSTS[name]) for name in ("size", "latency")}
        rows = [
            [
                label,
                cost.unit.short(dense[name]),
                cost.unit.short(pruned[name]),
                self._change(name, cost.less),
            ]
            for name, (label, cost) in ({name: (cost.label, cost) for name, cost in COSTS.items()} | int8).items()
            if name in dense and name in pruned
        ]
        task = task_named(self.task)
        before, after = dense[task.headline], pruned[task.headline]
        rows.append([task.headline, task.show(before), task.show(after), task.difference(after - before)])
        if "int8_agreement" in dense and "int8_agreement" in pruned:
            rows.append(["int8 agreement", *(f"{costs['int8_agreement']:.2%}" for costs in (dense, pruned)), ""])
        worst = max(self.verified.values())
        foot = [
            f"trained on {self.dataset}",
            f"exported to ONNX and verified: largest relative error {worst:.1e}",
            *(f"int8 file of {variant} not kept: {why}" for variant, why in (self.int8 or {}).items()),
            *self.notes,
            f"report: {self.report}",
        ]
        if "int8_gain" in self.speedups:
            gain = self.speedups["int8_gain"]
            foot.insert(2, f"dense in fp32 beside pruned in int8: {times(gain, 'faster', 'slower')} in ONNX Runtime")
        return text_table([self.model, "dense", "pruned", ""], rows, right=(1, 2), foot=["", *foot])

    def _change(self, cost: str, less: str) -> str:
        """How many times less it is: ``16.21x smaller``, ``unchanged``, ``1.09x more``."""
        return times(self._ratio(cost), less, "slower" if "latency" in cost else "more")

    def _ratio(self, cost: str) -> float:
        return self.speedups.get(cost) or self.costs["dense"][cost] / self.costs["pruned"][cost]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "folder": str(self.folder), "report": str(self.report)}


def run(
    model: ModelSource | str,
    directory: str | Path,
    *,
    budget: Budget,
    data: DataLike = "digits",
    pruning: Pruning = Pruning(),  # noqa: B008  # frozen
    epochs: int = 5,
    config: TrainConfig = TrainConfig(),  # noqa: B008  # frozen
    lesson: Lesson | None = None,
    int8: Int8 | None = Int8(),  # noqa: B008  # frozen
    overwrite: bool = False,
    resume: bool = True,
    allow_import: bool = False,
    command: str | None = None,
    progress: ProgressOption = None,
) -> Outcome:
    """Go the whole way, and go on where an earlier call with the same arguments was stopped.

    The dense network is trained by the same recipe into ``directory/dense``; with a ``lesson`` it (or the teacher that
    is named) then teaches the pruned one. With ``int8`` both are also quantised for ONNX Runtime; a file that is too
    far from float32 is not kept, and the outcome says so.

    Args:
        model: an address such as ``vgg16_bn``, ``torchvision:resnet18`` or ``mymodel.py:make``, or what
            ``reconvene.models.resolve_address`` gives.
        directory: where the artifact and the report go.
        budget: what the result keeps.
        data: as for ``rc.train``.
        pruning: how to prune: criterion, rectifier, device, ...
        epochs: as for ``rc.train``, as are ``config``, ``lesson`` and ``resume``.
        int8: how int8 is made and what it must keep; ``None`` leaves it out.
        overwrite: replace an artifact that was trained already.
        allow_import: let a model of your own be imported, which runs its code.
        command: the command line that makes it again, as the report tells it.
        progress: as for ``rc.plan``.

    Raises any ReconveneError of the steps.

    >>> import reconvene as rc
    >>> outcome = rc.run("resnet20", "out/", budget=rc.Budget(params="4x"), epochs=1)  # doctest: +SKIP
    >>> print(outcome)  # doctest: +SKIP
    """
    with listening(progress):
        source, dataset = model_and_data(model, data, seed=pruning.seed, allow_import=allow_import)
        folder = Path(directory)
        if not _pruned_already(folder, source, budget, pruning):
            prune_artifact(
                source,
                folder,
                budget=budget,
                pruning=pruning,
                data=lambda: dataset,
                task=dataset.task,
                examples=len(dataset.train),
                overwrite=overwrite,
                allow_import=allow_import,
            )
        if not (folder / DENSE / artifact.MANIFEST).exists():
            artifact.save(artifact.dense(folder, allow_import=allow_import), folder / DENSE)
        recipe = {"epochs": epochs, "config": config, "resume": resume, "allow_import": allow_import}
        notes = _trained_alike(folder, dataset, lesson, recipe)
        with shared_conversions():  # float32, int8 and the stopwatch begin with the same graphs
            seeded: dict[str, Any] = {"dataset": dataset, "seed": pruning.seed, "allow_import": allow_import}
            exports = export_artifact(folder, with_dense=True, **seeded)
            refused = None if int8 is None else _quantised(folder, int8, seeded)
            write_pictures(folder, draw_predictions(variants(folder, allow_import=allow_import), dataset))
            bench(folder, int8=int8, data=dataset, seed=pruning.seed, allow_import=allow_import)
        page = report(folder, command=command)
    return _outcome(source, folder, page, dataset, exports, refused, notes)


def _trained_alike(folder: Path, dataset: Dataset, lesson: Lesson | None, recipe: dict[str, Any]) -> tuple[str, ...]:
    """Train the dense network, then the pruned one; what a reader must know of them."""
    notes: list[str] = []
    for variant_folder, variant in ((folder / DENSE, "dense"), (folder, "pruned")):
        taught = lesson if variant_folder == folder else None
        training = train(variant_folder, dataset, lesson=taught, description=f"training {variant}", **recipe)
        if training.recalibration is not None:
            notes.append(f"{variant}: {training.recalibration}")
        if training.warning is not None:
            notes.append(f"warning: {variant}: {training.warning}")
    return tuple(notes)


def _outcome(
    source: ModelSource,
    folder: Path,
    page: Path,
    dataset: Dataset,
    exports: dict[str, list[Exported]],
    refused: dict[str, str] | None,
    notes: tuple[str, ...],
) -> Outcome:
    checked = {variant: exported[0].verification for variant, exported in exports.items()}
    errors = {
        variant: verification.max_rel_error
        for variant, verification in checked.items()
        if isinstance(verification, Verification)
    }
    return Outcome(
        model=source.address,
        folder=folder,
        report=page,
        dataset=str(dataset),
        costs=_costs(folder, dataset.task),
        verified=errors,
        int8=refused,
        speedups=_speedups(folder),
        notes=notes,
        task=dataset.task.name,
    )


def _quantised(folder: Path, int8: Int8, options: dict[str, Any]) -> dict[str, str]:
    """Export both in int8 as well; where one cannot be kept, say why, since all else is there to be used."""
    refused = {}
    for variant in ("dense", "pruned"):
        try:
            export_artifact(folder, int8=int8, only=variant, **options)
        except (VerificationError, ExportError) as error:
            refused[variant] = str(error)
    return refused


def _pruned_already(folder: Path, source: ModelSource, budget: Budget, pruning: Pruning) -> bool:
    """Whether the folder holds just what pruning would put there."""
    if not (folder / artifact.MANIFEST).exists():
        return False
    stored = artifact.Artifact.open(folder)
    if stored.pruning is None or stored.source != source:
        return False
    return replace(stored.pruning, spread={}) == record_of(pruning, budget)


def _speedups(folder: Path) -> dict[str, float]:
    timed = read_bench(folder)
    assert timed is not None, "timed above"
    speedups = {}
    for row in timed["rows"]:
        if (row["runtime"], row["variant"]) == ("onnxruntime", "pruned") and row["speedup_alike"] is not None:
            speedups["latency" if row["precision"] == "fp32" else "int8_latency"] = row["speedup_alike"]
            speedups |= {"int8_gain": row["speedup"]} if row["precision"] == "int8" else {}
    return speedups


def _costs(folder: Path, task: Task) -> dict[str, dict[str, float]]:
    plan, timed, score = artifact.read_plan(folder), read_bench(folder), scores(folder)
    assert plan is not None and timed is not None, "pruned and timed above"
    costs = {name: {**plan.costs[name], task.headline: score[name]} for name in ("dense", "pruned")}
    for row in timed["rows"]:
        if row["runtime"] != "onnxruntime":
            continue
        if row["precision"] == "fp32":
            costs[row["variant"]]["latency"] = row["median"]
        else:
            costs[row["variant"]] |= {"int8_latency": row["median"], "int8_size": row["size"]}
            costs[row["variant"]] |= {} if row["agreement"] is None else {"int8_agreement": row["agreement"]}
    return costs
