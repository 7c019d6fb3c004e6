"""A fleet's work from its file to a folder: plans for every device, artifacts, and a page that compares them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from reconvene import artifact
from reconvene.costs import COSTS
from reconvene.data import count_images, load_data
from reconvene.devices import HERE, find, measuring_conditions
from reconvene.errors import ArtifactError, FleetError, MissingExtraError, ReconveneError
from reconvene.fleet.config import Device, Fleet
from reconvene.fleet.device_result import DeviceRow, Result, cut_fields, mark_chosen
from reconvene.fleet.job import execute_job, job_key
from reconvene.models import ModelSource, example_inputs, resolve_address
from reconvene.planning.options import Options
from reconvene.planning.pruning import plan_with
from reconvene.planning.session import Planner
from reconvene.surgery import Plan
from reconvene.tasks import DEFAULT
from reconvene.utils.executors import FileContents, Job, in_processes, join_ray, on_ray
from reconvene.utils.files import unwritable, write_atomic
from reconvene.utils.machine import usable_cores
from reconvene.utils.progress import ProgressOption, listening, note, track
from reconvene.workflow.prune import Samples

# At which share of the weights every architecture is scored, once for all budgets.
DENSITY = 1 / 32
# Of processes that nobody asked for: each takes up to a gigabyte.
_MOST_WORKERS = 4
DONE, SUMMARY = "fleet-done.json", "fleet.json"


def run_fleet(
    fleet: Fleet,
    directory: str | Path,
    *,
    workers: int | None = None,
    ray: str | None = None,
    allow_import: bool = False,
    progress: ProgressOption = None,
) -> Result:
    """Make an artifact for every device of a fleet, and only those that are not there yet.

    Structure and scores of every architecture are found once, for all devices. Artifacts land
    one by one, each whole or not at all: stopped at any moment, the same call goes on with what is missing. A budget
    that cannot be kept, or work that fails, is a row with its reason; the others go on.

    Args:
        workers: processes on this machine. By default one, since training uses all cores itself; where nothing is
            trained, one per core and at most four, since each takes up to a gigabyte. With more than one, artifacts are
            made while further devices are planned, unless planning may time networks here.
        ray: address of a Ray cluster to work on instead.
        progress: as for ``rc.plan``.

    Raises UnknownNameError, FleetError, MissingExtraError, ModelError.
    """
    folder = Path(directory)
    if why := unwritable(folder / SUMMARY):
        raise FleetError(f"cannot write to {folder}: {why}")
    if ray is not None:  # before any planning: it may not be there
        join_ray(ray, error=FleetError)
    with listening(progress), _alone(folder):
        return _build_artifacts(fleet, folder, workers, ray, allow_import)


def _build_artifacts(fleet: Fleet, folder: Path, workers: int | None, ray: str | None, allow_import: bool) -> Result:
    places = sum(len(_takers(fleet, model)) for model in fleet.models)
    if not places:
        raise FleetError("no device takes any of these models: look at 'models' of the devices")
    workers = _usual_workers(fleet, places) if workers is None else workers
    planned: list[_Planned] = []
    work = folder / ".work"
    jobs: Iterable[Job] = _jobs(fleet, folder, planned, allow_import)
    if (workers == 1 and ray is None) or any(map(_measures_here, fleet.devices)):
        jobs = list(jobs)  # nothing else is at work meanwhile
    outcomes = (
        on_ray(execute_job, jobs, "reconvene-fleet")
        if ray
        else in_processes(execute_job, jobs, str(work), workers=workers)
    )
    trouble: dict[str, str] = {}
    for job, files in track(outcomes, "making artifacts", total=places):
        if isinstance(files, str):
            trouble[job["place"]] = files
        else:
            with _writing(folder):
                _land(files, folder / job["place"], job["key"])
            shutil.rmtree(work / job["key"], ignore_errors=True)
        note(f"{job['place']}: {files if isinstance(files, str) else 'done'}")
    if not trouble:  # else the next call goes on from the checkpoints in it
        shutil.rmtree(work, ignore_errors=True)
    order = {device.name: number for number, device in enumerate(fleet.devices)}
    rows = mark_chosen(
        _row(entry, folder, trouble) for entry in sorted(planned, key=lambda entry: order[entry.device.name])
    )
    missing = sum(entry.job is not None for entry in planned)
    kept = sum(entry.plan is not None and entry.job is None for entry in planned)
    result = Result(tuple(rows), missing - len(trouble), kept, folder)
    with _writing(folder):
        write_atomic(folder / SUMMARY, (json.dumps(result.to_dict()["rows"], indent=1) + "\n").encode())
    return result


def _jobs(fleet: Fleet, folder: Path, planned: list[_Planned], allow_import: bool) -> Iterator[Job]:
    """Plan for every device and architecture, and give what is to do for each plan as it comes; notes all of them."""
    examples = _examples(fleet)
    for model in fleet.models:
        for entry in _plans(fleet, model, folder, examples, allow_import):
            planned.append(entry)
            if entry.job is not None:
                with _writing(folder):
                    (folder / ".work").mkdir(parents=True, exist_ok=True)
                yield entry.job


def _usual_workers(fleet: Fleet, jobs: int) -> int:
    return 1 if fleet.train else min(usable_cores(), _MOST_WORKERS, jobs)


def _measures_here(device: Device) -> bool:
    """Whether planning for it may time networks on this machine, which other work would disturb."""
    measured = any(name in COSTS and COSTS[name].measured for name in device.budget.asked)
    return measured or device.profile is not None or "latency" in device.budget


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise FleetError where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise FleetError(f"cannot write to {folder}: {error.strerror or error}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes a fleet in this folder meanwhile. Raises FleetError where somebody does."""
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except Timeout as error:
        raise FleetError(f"another fleet is at work in {folder}. Wait for it, or give this one another -o") from error
    except OSError as error:
        raise FleetError(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it holds something
            folder.rmdir()


@dataclass(frozen=True)
class _Planned:
    """A device and an architecture; ``job``: what is to do, None where the artifact is there or there is no plan."""

    device: Device
    model: str
    relative_path: str
    key: str
    plan: Plan | None = None
    job: Job | None = None
    trouble: str = ""
    floor: dict[str, float] | None = None


def _examples(fleet: Fleet) -> int | None:
    """Training images of an epoch; None where counting takes a download, or an extra that is not installed."""
    try:
        return count_images(fleet.data, task=fleet.task, limit=fleet.limit)
    except MissingExtraError:
        return None


def _takers(fleet: Fleet, model: str) -> list[Device]:
    return [device for device in fleet.devices if not device.models or model in device.models]


def _plans(fleet: Fleet, model: str, folder: Path, examples: int | None, allow_import: bool) -> Iterator[_Planned]:
    devices = _takers(fleet, model)
    if not devices:
        return
    source = resolve_address(model, fleet.args, input_shape=fleet.input, seed=fleet.seed, allow_import=allow_import)
    shared = {name: getattr(fleet, name) for name in ("rectify", "seed", "data", "limit", "train")}
    shared |= {"source": source.to_dict(), "allow_import": allow_import}
    # Left out where it is the usual one: artifacts of releases that knew no other keep their key.
    shared |= {} if fleet.task == DEFAULT.name else {"task": fleet.task}
    planner: Planner | None = None
    keepable = 0
    for device in track(devices, f"planning {model}", total=len(devices)):
        options = {**shared, "export": list(device.export), "precision": device.precision, "chip": device.chip}
        relative_path = f"{device.name}/{model.replace(':', '-').replace('/', '-')}"
        key = job_key({**options, **_request(fleet, device), "examples": examples, "place": relative_path})
        if _is_complete(folder / relative_path, key):
            keepable += 1
            yield _Planned(device, model, relative_path, key, artifact.read_plan(folder / relative_path))
            continue
        try:
            planner = planner or planner_of(fleet, source, allow_import=allow_import)
            plan = plan_with(planner, device.budget, round_to=device.round_to, target=device.target)
        except MissingExtraError:  # which others need too
            raise
        except ReconveneError as error:
            floor = getattr(error, "floor", None)
            yield _Planned(device, model, relative_path, key, trouble=str(error), floor=floor)
            continue
        keepable += 1
        plan = replace(plan, examples=examples)
        job = {**options, "plan": plan.to_dict(), "key": key, "place": relative_path}
        yield _Planned(device, model, relative_path, key, plan, job)
    note(f"{model}: {keepable} of {len(devices)} budgets can be kept")


def _request(fleet: Fleet, device: Device) -> dict[str, Any]:
    profile: Any = None
    if device.profile not in (None, HERE):
        profile = find(device.profile).to_dict()
    elif device.profile == HERE or "latency" in device.budget:
        profile = measuring_conditions(1, device.precision or "fp32")  # what was measured elsewhere is measured again
    request: dict[str, Any] = {"budget": dict(device.budget.asked), "profile": profile, "round_to": device.round_to}
    request |= {"memory_of": device.memory_of, "precision": device.precision}
    return {**request, "criterion": fleet.criterion, "evaluator": fleet.evaluator}


def planner_of(fleet: Fleet, source: ModelSource, *, allow_import: bool) -> Planner:
    """A planner that scores once for all devices of a fleet."""
    assert source.input_shape is not None, "resolve() fills it in"
    built = source.build(allow_import=allow_import)
    samples = Samples(
        lambda: load_data(fleet.data, task=fleet.task, input_shape=source.input_shape, limit=fleet.limit),
        seed=fleet.seed,
    )
    inputs = example_inputs(source.input_shape, seed=fleet.seed)
    options = Options(criterion=fleet.criterion, data=samples, seed=fleet.seed, evaluator=fleet.evaluator)
    return options.planner(built, inputs, density=DENSITY)


def _is_complete(path: Path, key: str) -> bool:
    """Whether the artifact of ``key`` is complete in ``path``: every file has the size it was written with."""
    try:
        receipt = json.loads((path / DONE).read_text(encoding="utf-8"))
        if not isinstance(receipt, dict) or receipt.get("key") != key:
            return False
        stored = artifact.Artifact.open(path)
        exports = {entry.file: entry.bytes for entry in stored.exports}
        sizes = {**{name: entry.bytes for name, entry in stored.files.items()}, **exports}
        _ = stored.plan  # can it be read?
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, ArtifactError):
        return False


def _land(files: FileContents, destination: Path, key: str) -> None:
    """Write an artifact, with its mark of completion, into a staging folder and rename that to ``destination``."""
    staging = destination.with_name(f".{destination.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    for name, content in {**files, DONE: json.dumps({"key": key}).encode()}.items():
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    shutil.rmtree(destination, ignore_errors=True)
    os.replace(staging, destination)


def _row(planned: _Planned, folder: Path, trouble: dict[str, str]) -> DeviceRow:
    name, budget = planned.device.name, dict(planned.device.budget.asked)
    row = DeviceRow(
        device=name,
        model=planned.model,
        budget=budget,
        key=planned.key,
        costs=planned.floor or {},
        trouble=planned.trouble,
    )
    if planned.plan is None:
        return replace(row, trouble=row.trouble + _left_from_before(folder, planned.relative_path))
    row = replace(row, limits=dict(planned.plan.limits), **cut_fields(planned.plan))
    if planned.relative_path in trouble:
        return replace(row, trouble=trouble[planned.relative_path] + _left_from_before(folder, planned.relative_path))
    stored = artifact.Artifact.open(folder / planned.relative_path)
    files = {entry.file: entry.bytes for entry in stored.exports}
    row = replace(row, folder=planned.relative_path, files=files)
    trained = stored.training
    return row if trained is None else replace(row, task=trained.task, score=trained.score)


def _left_from_before(folder: Path, relative_path: str) -> str:
    """A sentence on the artifact of an earlier call, for a device that gets none now; empty without one."""
    return (
        f". What lies in {relative_path} is from before, made for what was asked then"
        if (folder / relative_path).is_dir()
        else ""
    )
