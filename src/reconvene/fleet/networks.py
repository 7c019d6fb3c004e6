"""The networks of a fleet: addresses or folders of trained artifacts, and where their weights come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from reconvene.artifact import MANIFEST, Artifact
from reconvene.errors import ArtifactError, ModelError, UnknownNameError
from reconvene.fleet.options import Fleet, FleetOptions
from reconvene.models import ModelSource, resolve_address
from reconvene.models.pretrained import pretrained_file, published_normalisation
from reconvene.tasks import DEFAULT
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import Settings
from reconvene.workflow.inputs import DataChoice, recorded_task
from reconvene.workflow.origin import Origin

PUBLISHED = "pretrained"
"""In place of a file: the weights that torchvision or timm publish."""


def find_bases(settings: Settings, options: FleetOptions, folder: Path) -> dict[str, Path]:
    """The models that are folders of trained artifacts, by their name in the file; all others are looked up.

    Models of the user's own are not imported yet. The settings' error names the line at fault.
    """
    bases: dict[str, Path] = {}
    for index, name in enumerate(options.models):
        place: Place = ("models", index) if isinstance(settings.at(("models",)), list) else ("models",)
        base = (folder / Path(name).expanduser()).resolve()
        if (base / MANIFEST).is_file():
            _require_trained(settings, place, options, name, base)
            bases[name] = base
            continue
        try:
            if not ModelSource(name).imports:
                resolve_address(name, options.args, input_shape=options.input)
        except (ModelError, UnknownNameError) as error:
            nowhere = f" There is no artifact in {base} either" if options.trained else ""
            settings.fail(place, f"{error}{nowhere}")
        if options.trained and name not in options.weights and not ModelSource(name).imports:
            settings.fail(
                place,
                f"{name} has no trained weights. Name the folder of a trained artifact instead, or give the weights: "
                f"{{{name}: FILE}}, or {PUBLISHED} for those that torchvision or timm publish",
            )
    folders = [result_folder(name, bases.get(name)) for name in dict.fromkeys(options.models)]
    if again := next((folder for folder in folders if folders.count(folder) > 1), None):
        settings.fail(("models",), f"two models have results in a folder {again!r}: results need different names")
    return bases


def result_folder(model: str, base: Path | None) -> str:
    """The name of the folder with the results of a model, or of an artifact that is a model, for each device."""
    return re.sub(r"[:/\\]", "-", model) if base is None else base.name


def _require_trained(settings: Settings, place: Place, options: FleetOptions, name: str, base: Path) -> None:
    if not options.trained:
        settings.fail(place, f"{name} is an artifact. trained: true prunes the network in it and keeps its weights")
    try:
        stored = Artifact.open(base)
        if not stored.is_trained:
            settings.fail(place, f"{name} is not trained yet: reconvene train {name} --data ...")
        if stored.plan is not None:
            settings.fail(place, f"{name} was pruned already. Name the dense network that it was cut from")
    except ArtifactError as error:
        settings.fail(place, str(error))


def find_weights(settings: Settings, options: FleetOptions, bases: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """The files with weights as paths from here, by model; ``pretrained`` stays. Errors as ``find_bases``."""
    if options.weights and not options.trained:
        settings.fail(("weights",), "weights are kept with trained: true only; else touched layers are drawn anew")
    weights = {}
    for model, file in options.weights.items():
        place: Place = ("weights", model)
        if model not in options.models or model in bases:
            why = "is an artifact and has weights" if model in bases else f"is none of {', '.join(options.models)}"
            settings.fail(place, f"weights of {model}: it {why}")
        if file == PUBLISHED:
            try:
                pretrained_file(model)
            except ModelError as error:
                settings.fail(place, str(error))
            weights[model] = file
            continue
        path = folder / Path(file).expanduser()
        if not path.is_file():
            settings.fail(place, f"there is no file {path}. A path is from the folder of this file")
        weights[model] = str(path.resolve())
    return weights


def recorded_task_of(settings: Settings, bases: Mapping[str, Path]) -> str:
    """The one task that the artifacts were trained for; the default without any."""
    tasks = {name: recorded_task(base) for name, base in bases.items()}
    if len(set(tasks.values())) > 1:
        listed = ", ".join(f"{name} {task}" for name, task in tasks.items())
        settings.fail(("models",), f"these were trained for different tasks ({listed}). Give each task a fleet")
    return next(iter(tasks.values()), DEFAULT.name)


def origin_of(fleet: Fleet, model: str, *, allow_import: bool) -> Origin:
    """Where a model of the fleet and its weights come from. Raises UnknownNameError, ModelError."""
    base, weights = fleet.bases.get(model), fleet.weights.get(model)
    if base is not None:
        return Origin(Artifact.open(base).source, base)
    source = resolve_address(model, fleet.args, input_shape=fleet.input, seed=fleet.seed, allow_import=allow_import)
    if weights is None:
        return Origin(source)
    return Origin(source, weights=pretrained_file(model) if weights == PUBLISHED else Path(weights))


def data_choice(fleet: Fleet, model: str, source: ModelSource) -> DataChoice:
    """How images are loaded for a model: published weights read them as they were trained on."""
    published = published_normalisation(model) if fleet.weights.get(model) == PUBLISHED else None
    mean, std = published or (None, None)
    return DataChoice(fleet.task, source.input_shape, fleet.limit, mean=mean, std=std)
