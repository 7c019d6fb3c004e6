"""``rc.compress``: carry out a recipe, and go on where it was stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reconvene import artifact
from reconvene.costs import COSTS, Budget, read_budget
from reconvene.data import Dataset, Normalisation
from reconvene.deploy import time_variants
from reconvene.errors import ArtifactError, BudgetError, RecipeError
from reconvene.models import example_inputs, resolve_address
from reconvene.planning.schedule import amount_text
from reconvene.utils.files import read_regular, write_atomic
from reconvene.utils.locks import alone_in
from reconvene.utils.machine import machine
from reconvene.utils.progress import ProgressOption, listening, note, stage
from reconvene.workflow.compression.compressed import Compressed, OnDevice, draw_stages, stage_folder
from reconvene.workflow.compression.deploying_stages import ExportStage
from reconvene.workflow.compression.device_time import seconds_on
from reconvene.workflow.compression.judge import MEASURED, STAGE_RESULT, StageResult, judge_stage
from reconvene.workflow.compression.pruning_stages import check_layers
from reconvene.workflow.compression.recipe import Recipe, RecipeLike, read_recipe_file
from reconvene.workflow.compression.replace_stage import ReplaceStage
from reconvene.workflow.compression.room import ROOM
from reconvene.workflow.compression.stage import RecipeStage, StageWork, artifact_checksums
from reconvene.workflow.inputs import dataset_for
from reconvene.workflow.origin import Origin

IDENTITY, LATENCIES, TABLE, PLOT, SOURCE = "stage.json", "latencies.json", "stages.json", "stages.svg", "source"
REPEATS = 30


def compress(
    recipe: RecipeLike,
    directory: str | Path | None = None,
    *,
    overwrite: bool = False,
    allow_import: bool = False,
    progress: ProgressOption = None,
) -> Compressed:
    """Carry out a recipe: prune, train, distil, decide bits, quantise and export, in the order that it says.

    Every stage has a folder with an artifact of its own, and is judged by the ONNX file that it would be deployed as.
    Stopped at any moment, the same call goes on where it was, to the same bytes; stages that are done are not done
    again.

    Args:
        recipe: a YAML or TOML file, or the mapping that it holds: see docs/compress.md.
        directory: where the stages go; by default ``out/NAME-OF-THE-FILE``, or ``out/recipe`` for a mapping.
        overwrite: make stages anew that were made by another recipe; without it they are an error.
        allow_import: whether a model of your own (``mymodel:make``) may be imported, which runs its code.
        progress: how progress is shown, as for ``rc.plan``.

    Raises:
        RecipeError: the recipe cannot be read, or its folder holds stages of another one.
        BudgetError: a stage cannot keep its limits, or the last network breaks the budget of the whole; what was made
            is kept.
        Others are those of the stages.

    >>> import tempfile
    >>> import reconvene as rc
    >>> recipe = {"model": "resnet20", "args": {"width": 0.25}, "limit": 60, "stages": [{"prune": {"params": "4x"}}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = rc.compress(recipe, folder)
    >>> [stage.stage for stage in result.stages]
    ['source', 'prune']
    """
    chosen = read_recipe_file(recipe)
    folder = Path("out") / ("recipe" if not isinstance(recipe, str | Path) else Path(recipe).stem)
    run = _RecipeRun(chosen, Path(directory) if directory is not None else folder, overwrite, allow_import)
    with listening(progress), alone_in(run.folder, error=RecipeError):
        return run.carry_out()


@dataclass(frozen=True)
class _RecipeRun:
    """One call of ``compress``."""

    recipe: Recipe
    folder: Path
    overwrite: bool
    allow_import: bool

    def carry_out(self) -> Compressed:
        """All stages, the latencies, the table and the plot. Raises BudgetError behind all that."""
        foreign = self._other_stages()
        source, base = self._source()
        dataset = dataset_for(base, self.recipe.path(self.recipe.data), self.recipe.data_choice(source.input_shape))
        for path in foreign:  # only when model and data were found
            _remove_stage(path)
        source = source if base is not None else source.with_classes(dataset.outputs)
        work = self._first_work(dataset)
        base_files = None if base is None else artifact_checksums(base)
        made_by: dict[str, Any] = {"model": source.to_dict(), "base": base_files}
        weights = None if self.recipe.weights is None else Path(self.recipe.path(self.recipe.weights))
        given = Normalisation(dataset.mean, dataset.std) if self.recipe.mean or self.recipe.std else None
        origin = Origin(source, base, weights, given)
        made_by["weights"] = None if weights is None else origin.sha256
        check_layers(self.recipe.stages, lambda: origin.build(allow_import=self.allow_import))
        results = [self._stage(0, SOURCE, made_by, work, lambda: self._save_source(origin, work.folder))]
        budget = self._in_amounts(results[0], work)
        for number, chosen in enumerate(self.recipe.stages, 1):
            work = self._next_work(work, number, chosen, budget)
            results.append(self._stage(number, chosen.name, _identity(chosen, work), work, _call(chosen, work)))
            if chosen.trains:
                work = replace(work, teacher=work.folder)
        return self._finish(tuple(results), budget, work)

    def _source(self) -> tuple[Any, Path | None]:
        """How the dense network is built, and the artifact that begins where the recipe names one."""
        recipe = self.recipe
        base = recipe.base
        if base is not None:
            return artifact.Artifact.open(base).source, base
        source = resolve_address(
            recipe.model, recipe.args, input_shape=recipe.input, seed=recipe.seed, allow_import=self.allow_import
        )
        return source, None

    def _first_work(self, dataset: Dataset) -> StageWork:
        stages = self.recipe.stages
        precisions = [stage.precision for stage in stages if stage.precision is not None]
        formats = [stage.formats for stage in stages if isinstance(stage, ExportStage)]
        folder = self.folder / stage_folder(0, SOURCE)
        return StageWork(
            folder=folder,
            before=folder,
            teacher=folder if self.recipe.is_trained else None,
            artifacts=(),
            later=stages,
            dataset=dataset,
            budget=None,
            trained=self.recipe.is_trained,
            precision="fp32",
            last_precision="plan" if "plan" in precisions else "int8" if precisions else "fp32",
            formats=formats[-1] if formats else ("onnx",),
            seed=self.recipe.seed,
            allow_import=self.allow_import,
            path=self.recipe.path,
        )

    def _next_work(self, work: StageWork, number: int, stage: RecipeStage, budget: Budget | None) -> StageWork:
        """The work of a stage, behind that of the stage before."""
        precision = work.precision if work.precision == "plan" else stage.precision or work.precision
        earlier = self.recipe.stages[: number - 1]
        return replace(
            work,
            folder=self.folder / stage_folder(number, stage.name),
            before=work.folder,
            artifacts=(*work.artifacts, work.folder),
            later=self.recipe.stages[number:],
            budget=budget,
            trained=work.trained or any(stage.trains for stage in earlier),
            precision=precision,
        )

    def _stage(
        self, number: int, name: str, made_by: dict[str, Any], work: StageWork, make: Callable[[], None]
    ) -> StageResult:
        """A stage that is made, or goes on, or was done before; raises RecipeError where another recipe made it."""
        identity = work.folder / IDENTITY
        given = {key: value for key, value in (("mean", self.recipe.mean), ("std", self.recipe.std)) if value}
        made_by = {"stage": name, **made_by, **_conditions(work), **given}
        text = json.dumps(made_by, indent=1, sort_keys=True, default=str) + "\n"
        if identity.exists():
            if identity.read_text(encoding="utf-8") != text:
                made = {path.name for path in work.folder.iterdir()} - {IDENTITY, ROOM}
                if made and not self.overwrite:
                    raise RecipeError(
                        f"{work.folder} was made by another recipe, or from another network or other data. --overwrite "
                        "(overwrite=True) makes it and what follows it anew; -o DIR goes elsewhere"
                    )
                _remove_stage(work.folder)  # or it failed before anything was there
        elif work.folder.exists() and any(work.folder.iterdir()):
            raise RecipeError(f"{work.folder} is not a stage of a recipe, and nothing is written over it. Try: -o DIR")
        work.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(identity, text.encode())
        if not (work.folder / STAGE_RESULT).exists():
            make()
        return judge_stage(number, name, work)

    def _save_source(self, origin: Origin, folder: Path) -> None:
        """The artifact that the stages begin with; it says where trained weights come from."""
        if origin.base is not None:
            artifact.copy_artifact(origin.base, folder)
            if origin.normalisation is not None and artifact.Artifact.open(folder).normalised is None:
                artifact.add_measurements(folder, {"normalisation": origin.normalisation})
            return
        model = origin.build(allow_import=self.allow_import)
        if self.recipe.is_trained:
            origin.save_dense(model, folder)
        else:
            artifact.save(model, folder, source=origin.source)

    def _in_amounts(self, source: StageResult, work: StageWork) -> Budget | None:
        """The budget with shares of the source's costs as amounts: stages see another network."""
        if self.recipe.budget is None:
            return None
        amounts = {}
        for name, value in self.recipe.budget.asked.items():
            limit = read_budget(name, value)
            if limit.share is None:
                amounts[name] = value
            elif name == "latency":
                amounts[name] = amount_text(name, limit.of(self._latency_of(source, work)))
            elif name in source.costs:
                amounts[name] = amount_text(name, limit.of(source.costs[name]))
            else:
                raise BudgetError(
                    f"{name} {value} is a share, and a recipe does not measure {name} of its source. Give an amount, "
                    f"or give the limit to the prune stage"
                )
        return Budget(**amounts)

    def _latency_of(self, source: StageResult, work: StageWork) -> float:
        """Seconds of the source: timed on this machine, or predicted on the device that the budget is about."""
        device = self.recipe.latency_device
        if device is None:
            return self._timed({work.folder.name: source}, work.folder)[0]
        return seconds_on(device, artifact.load(work.folder, allow_import=self.allow_import).eval(), work)

    def _timed(self, results: dict[str, StageResult], folder: Path) -> tuple[float, ...]:
        """Seconds of one inference of each stage's file; kept in ``folder``, since a second measurement differs."""
        files = {name: result.sha256 for name, result in results.items()}
        path = folder / LATENCIES
        if path.exists():
            record = json.loads(read_regular(path, limit=2**20, error=ArtifactError))
            if record["files"] == files and record.get("machine") == machine():
                return tuple(float(record["seconds"][name]) for name in files)
        paths = {name: self.folder / name / result.file for name, result in results.items()}
        shape = artifact.Artifact.open(self.folder / stage_folder(0, SOURCE)).source.input_shape
        assert shape is not None, "its source was resolved"
        inputs = example_inputs(shape, seed=self.recipe.seed)
        with stage("timing the files of all stages in turns"):
            timed = time_variants(
                dict(paths), inputs, runtimes=("onnxruntime",), repeats=REPEATS, seed=self.recipe.seed
            )
        seconds = {name: timed.row("onnxruntime", name).median for name in files}
        record = {"files": files, "seconds": seconds, "machine": timed.machine, "versions": timed.versions}
        write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())
        return tuple(seconds.values())

    def _finish(self, results: tuple[StageResult, ...], budget: Budget | None, work: StageWork) -> Compressed:
        """Table and plot, and the verdict on the budget."""
        by_folder = {stage_folder(result.number, result.stage): result for result in results}
        seconds = self._timed(by_folder, self.folder)
        asked = {} if budget is None else budget.asked
        amounts = {name: read_budget(name, value).of(0.0) for name, value in asked.items() if name in MEASURED}
        elsewhere, task = None, work.dataset.task.name
        if (device := self.recipe.latency_device) is not None:
            model = artifact.load(work.folder, allow_import=self.allow_import).eval()
            elsewhere = OnDevice(device, seconds_on(device, model, work))
        outcome = Compressed(self.folder, results, seconds, amounts, task, elsewhere)
        stages = {"task": task, "limits": amounts, "stages": [asdict(result) for result in results]}
        write_atomic(self.folder / TABLE, (json.dumps(stages, indent=1, sort_keys=True) + "\n").encode())
        write_atomic(self.folder / PLOT, draw_stages(outcome).encode())
        if outcome.over:
            parts = [
                f"{name} is {COSTS[name].unit.phrase(value)} instead of at most {COSTS[name].unit.phrase(limit)}"
                for name, (value, limit) in outcome.over.items()
            ]
            note(str(outcome))
            names = [stage.name for stage in self.recipe.stages]
            late = "replace" in names and "prune" in names[: names.index("replace")]
            advice = (
                "replace before prune, since the room that prune leaves for other operations is an estimate, or "
                if late
                else ""
            )
            raise BudgetError(
                f"the last stage breaks the budget: {'; '.join(parts)}. All stages are in {self.folder}. Try: "
                f"{advice}a smaller limit for a prune or bits stage",
                {name: value for name, (value, _) in outcome.over.items()},
            )
        return outcome

    def _other_stages(self) -> list[Path]:
        """Folders of stages that this recipe does not have. Raises RecipeError for them without ``overwrite``."""
        names = [stage_folder(n, s) for n, s in enumerate((SOURCE, *(stage.name for stage in self.recipe.stages)))]
        foreign = [path.parent for path in sorted(self.folder.glob(f"*/{IDENTITY}")) if path.parent.name not in names]
        if foreign and not self.overwrite:
            raise RecipeError(
                f"{foreign[0]} is a stage of another recipe. --overwrite (overwrite=True) removes it; -o DIR goes "
                "elsewhere"
            )
        return foreign


def _remove_stage(folder: Path) -> None:
    """Remove a stage, its identity last: what is left of it if that is interrupted is still known as a stage."""
    for path in folder.iterdir():
        if path.name == IDENTITY:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.rmtree(folder)


def _call(stage: RecipeStage, work: StageWork) -> Callable[[], None]:
    return lambda: stage.carry_out(work)


def _identity(stage: RecipeStage, work: StageWork) -> dict[str, Any]:
    """What makes a stage this one: its options, the network before, and the whole budget where it keeps that."""
    identity: dict[str, Any] = {
        "options": asdict(stage),
        "before": artifact_checksums(work.before),
        **stage.reads(work),
    }
    if stage.needs_budget:
        assert work.budget is not None, "checked when the recipe was read"
        identity["whole"] = [work.budget.asked, work.last_precision, work.formats]
        room = [{**asdict(entry), **entry.reads(work)} for entry in work.later if isinstance(entry, ReplaceStage)]
        identity |= {"room_for": room} if room else {}
    return identity


def _conditions(work: StageWork) -> dict[str, Any]:
    """The state of the recipe, and its data."""
    state = {"trained": work.trained, "precision": work.precision, "seed": work.seed}
    return {**state, "pixels": work.dataset.sha256, **work.dataset.task.identity()}
