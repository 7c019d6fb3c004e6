"""Artifacts: a folder that keeps a model, how it was pruned and how to build it again. Nothing in it can execute code.

``model.safetensors`` holds the tensors, ``plan.json`` which channels stayed, and ``reconvene.json``, the manifest, the
rest: format version, model source, aliases of tied tensors, versions of modules, a probe of what the model computes,
what was done to it, a checksum of every file and of itself. The same seed gives the same bytes of all three; how long
things took stands beside them in ``timings.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from reconvene.artifact.folder import Artifact, commit_files
from reconvene.artifact.hub import PREFIX, Push, fetched, parse_hub_address, pull, push_to_hub
from reconvene.artifact.manifest import MANIFEST, PLAN, WEIGHTS, changed_manifest, new_manifest
from reconvene.artifact.origin import applied_plans, one_plan, permitted, remember_origin, source_of, with_plan
from reconvene.artifact.probe import differs, take_probe
from reconvene.artifact.sections import AsCut, ExportRecord, PruningRecord, ReplacedOperations
from reconvene.artifact.tensors import decode_tensors, encode, fill_model, module_versions, require_same_tensors
from reconvene.artifact.timings import TIMINGS, Timings, write_timings
from reconvene.artifact.training_record import FoundRate, QuantisedTraining, Recalibrated, Teacher, Training
from reconvene.errors import ArtifactError
from reconvene.models import ModelSource
from reconvene.utils.arguments import check_model, check_path, checked

if TYPE_CHECKING:
    from reconvene.surgery import Plan

__all__ = [
    "MANIFEST",
    "PLAN",
    "TIMINGS",
    "WEIGHTS",
    "Artifact",
    "AsCut",
    "ExportRecord",
    "FoundRate",
    "PruningRecord",
    "Push",
    "QuantisedTraining",
    "Recalibrated",
    "ReplacedOperations",
    "Teacher",
    "Timings",
    "Training",
    "add_measurements",
    "copy_artifact",
    "dense",
    "from_pretrained",
    "load",
    "pull",
    "push_to_hub",
    "read_plan",
    "remember_origin",
    "save",
    "save_pruned",
]

OWN_LOOP = "code of the user's own"
"""Where weights come from that nothing here trained or read from a file."""


@checked(model=check_model, directory=check_path)
def save(
    model: nn.Module,
    directory: str | Path,
    *,
    plan: Plan | None = None,
    source: ModelSource | Mapping[str, Any] | str | None = None,
    extra: Mapping[str, Any] | None = None,
    timings: Timings | None = None,
    trained: bool | None = None,
) -> None:
    """Write ``model`` as an artifact. The folder is made where there is none, and other files in it stay.

    Args:
        model: on any device, in any dtype; it is left as it is.
        directory: stopped at any moment (Ctrl-C, a full disk, ``kill -9``), it holds the old artifact or the new one.
        plan: what was applied to the dense model; by default what ``rc.prune`` noted on the model. Of a model that was
            pruned more than once all plans are noted, and one plan of the dense model is saved.
        source: how to build the dense model: a Source, an address, or a mapping such as ``{"address": "mymodels:Net",
            "args": {"classes": 10}, "input_shape": [3, 32, 32]}``. By default what was noted on the model, else what
            can be proved to give it: see ``reconvene.artifact.derive``.
        extra: measurements for the manifest: sections (see ``reconvene.artifact.sections``), and others by names of
            your own, in plain JSON types.
        timings: seconds of the steps that made it; those of an artifact that was there before are removed.
        trained: whether the weights were trained, so that the network can be evaluated and taught from. By default yes
            where ``rc.prune`` kept trained weights; say ``True`` after a training loop of your own.

    Before anything is written the dense model is built, the plan applied and the tensors filled in, and both models run
    on a seeded example (where the source has an input shape): what is saved can be loaded, and computes the same. Its
    outputs are kept as the artifact's probe, see ``reconvene.artifact.probe``.

    Raises ArtifactError: no source, a source that does not give this model, or a folder that cannot be written.

    >>> import tempfile
    >>> import reconvene as rc
    >>> from reconvene.models import example_inputs, resolve_address
    >>> model, x = resolve_address("resnet20", {"width": 0.25}).build(), example_inputs((3, 32, 32))
    >>> small = rc.prune(model, x, rc.Budget(params="4x"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rc.save(small, folder)
    ...     again = rc.load(folder)
    >>> bool((again.eval()(x) == small.eval()(x)).all())
    True
    """
    plans = applied_plans(model, plan)
    origin = source_of(model, plans, source)
    origin = replace(origin, replaced={**origin.replaced, **getattr(model, "reconvene_replaced", {})})
    built = origin.build(allow_import=True)
    plan = one_plan(built, origin, plans)
    again = with_plan(built, origin, plan)
    kept = plan is not None and plan.kept_weights
    sections = dict(extra or {})
    if (trained or (trained is None and kept)) and not {"training", "pruning", "weights_from"} & sections.keys():
        sections["weights_from"] = OWN_LOOP
    _write(model, again, Path(directory), origin, plan, sections, timings)


def save_pruned(
    model: nn.Module,
    dense: nn.Module,
    directory: Path,
    *,
    plan: Plan,
    source: ModelSource,
    extra: Mapping[str, Any],
    timings: Timings,
) -> None:
    """As ``save``, for a network pruned from ``dense``, which ``source`` has built in this process.

    It is not built again: drawing the weights of a large network takes as long as planning its pruning. Where the
    source is code of the user's own, which may build another network every time, take ``save``.

    Raises ArtifactError.
    """
    _write(model, with_plan(dense, source, plan), directory, source, plan, extra, timings)


def _write(
    model: nn.Module,
    again: nn.Module,
    directory: Path,
    origin: ModelSource,
    plan: Plan | None,
    extra: Mapping[str, Any],
    timings: Timings | None,
) -> None:
    """Write ``model``, once ``again``, which the source and the plan gave, computes the same with its tensors."""
    state = model.state_dict()
    description = f"{origin.address} built with {dict(origin.args)}" + (
        " and pruned by the plan" if plan is not None else ""
    )
    require_same_tensors(again.state_dict(), state, description)
    weights, aliases = encode(state)
    versions = module_versions(state)
    fill_model(again, decode_tensors(weights, aliases, directory), versions)
    # Of the rebuilt model: it is on the CPU, wherever the given one is.
    probe = take_probe(again, origin.input_shape)
    if (difference := differs(model, probe)) is not None:
        raise ArtifactError(
            f"{description} is another model, although its tensors fit: {difference}. Save the model as its source "
            "builds it, or name a source= that builds it as it is"
        )
    files = {WEIGHTS: weights}
    if plan is not None:
        files[PLAN] = plan.to_json().encode()
    text = new_manifest(origin, files, aliases=aliases, measurements=extra, versions=versions, probe=probe)
    commit_files(directory, files, text)
    write_timings(directory, timings)


@checked(directory=check_path)
def load(directory: str | Path, *, allow_import: bool = False) -> nn.Module:
    """Rebuild the model of an artifact: same classes, same tensors, on the CPU, in train mode as after construction.

    The model carries ``reconvene_plan`` (None for a dense one) and ``reconvene_source``, so it can be saved again.

    Args:
        directory: the artifact; or, on the Hugging Face hub, ``hf:owner/name`` or ``hf:owner/name@revision``.
        allow_import: whether a model addressed as ``package.module:callable`` may be imported, which runs that code.

    Raises ArtifactError: missing, truncated, altered, foreign, newer, an import that was not allowed, or a model that
    does not compute what the saved one did (see ``reconvene.artifact.probe``); PlanError for a plan that is none.

    >>> import tempfile
    >>> import reconvene as rc
    >>> from reconvene.models import example_inputs, resolve_address
    >>> model, x = resolve_address("resnet20", {"width": 0.25}).build(), example_inputs((3, 32, 32))
    >>> small = rc.prune(model, x, rc.Budget(params="4x"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rc.save(small, folder)
    ...     again = rc.load(folder)
    >>> bool((again.eval()(x) == small.eval()(x)).all())
    True
    """
    if isinstance(directory, str) and directory.startswith(PREFIX):
        repo_id, revision = parse_hub_address(directory)
        directory = fetched(repo_id, revision=revision)
    stored = Artifact.open(directory)
    folder, plan = stored.folder, stored.plan
    source = permitted(stored, allow_import)
    model = with_plan(source.build(allow_import=allow_import), source, plan)
    state = decode_tensors(stored.read(WEIGHTS), stored.aliases, folder)
    require_same_tensors(model.state_dict(), state, f"{stored.source.address} as {folder} describes it")
    fill_model(model, state, stored.versions)
    if stored.probe is not None and (difference := differs(model, stored.probe)) is not None:
        raise ArtifactError(
            f"{folder} does not reproduce: with the saved tensors {stored.source.address} computes something else "
            f"than the model that Reconvene {stored.written_by} saved: {difference}. Load it with the releases of "
            "torch and of the model's package that it was saved with"
        )
    return remember_origin(model, plan=plan, source=stored.source)


def from_pretrained(
    name: str | Path, *, revision: str | None = None, token: str | None = None, allow_import: bool = False
) -> nn.Module:
    """``load`` from a folder where there is one of this name, else from the hub's ``owner/name``.

    Args:
        name: a folder, or a repository of the hub, of which only the artifact's own files are fetched, and cached.
        revision: branch, tag or commit on the hub.
        token: by default the one that ``hf auth login`` or the environment gave.
        allow_import: see ``load``.

    Raises ArtifactError, MissingExtraError.
    """
    if Path(name).is_dir():
        if revision is not None:
            raise ArtifactError(f"{name} is a folder here, which has no revision {revision}. For the hub: hf:{name}")
        return load(Path(name), allow_import=allow_import)
    return load(fetched(str(name), revision=revision, token=token), allow_import=allow_import)


def dense(directory: str | Path, *, allow_import: bool = False) -> nn.Module:
    """The untrained dense model that an artifact was pruned from. Raises ArtifactError."""
    origin = permitted(Artifact.open(directory), allow_import)
    return remember_origin(origin.build(allow_import=allow_import), plan=None, source=origin)


def copy_artifact(source: str | Path, target: str | Path) -> None:
    """Have the same artifact in another folder, without the files that were exported from it. Raises ArtifactError."""
    stored = Artifact.open(source)
    text = changed_manifest(stored.text, {"exports": ()})
    commit_files(Path(target), {name: stored.read(name) for name in stored.files}, text)


def read_plan(directory: str | Path) -> Plan | None:
    """The plan of an artifact, None for a dense one. Raises ArtifactError, PlanError."""
    return Artifact.open(directory).plan


def add_measurements(directory: str | Path, measurements: Mapping[str, Any]) -> None:
    """Add measurements to the manifest of an artifact, replacing those of the same name; as ``extra`` of ``save``.

    Raises ArtifactError.
    """
    commit_files(Path(directory), {}, changed_manifest(Artifact.open(directory).text, measurements))
