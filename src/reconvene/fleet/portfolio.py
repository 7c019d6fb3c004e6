"""A fleet's work from its file to a folder: an artifact for every device, each made once, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path

from reconvene import artifact
from reconvene.errors import FleetError
from reconvene.fleet.assignments import Assignment, PlannedAssignment, assignments_of, may_time, plans_for
from reconvene.fleet.device_result import DeviceRow, Result, cut_fields, mark_chosen
from reconvene.fleet.job import execute_job
from reconvene.fleet.landing import is_complete, land, require_own
from reconvene.fleet.options import Device, Fleet
from reconvene.planning.measuring.runtime_costs import ExportedSize
from reconvene.utils.executors import Job, JobOutcome, in_processes, join_ray, on_ray
from reconvene.utils.files import unwritable, write_atomic
from reconvene.utils.locks import alone_in
from reconvene.utils.machine import usable_cores
from reconvene.utils.progress import ProgressOption, listening, note, track

# Of processes that nobody asked for: each takes up to a gigabyte.
_MOST_WORKERS = 4
SUMMARY = "fleet.json"


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
    with listening(progress), _folder_of_results(folder):
        return _build_artifacts(fleet, folder, workers, ray, allow_import)


def _build_artifacts(fleet: Fleet, folder: Path, workers: int | None, ray: str | None, allow_import: bool) -> Result:
    assignments = assignments_of(fleet, allow_import=allow_import)
    if not assignments:
        raise FleetError("no device takes any of these models: look at 'models' of the devices")
    complete = {assignment.path for assignment in assignments if is_complete(folder / assignment.path, assignment.key)}
    missing = [assignment for assignment in assignments if assignment.path not in complete]
    planned: list[PlannedAssignment] = []
    trouble: dict[str, str] = {}
    for assignment in assignments:
        if assignment.path not in complete:
            require_own(folder / assignment.path)
    work = folder / ".work"
    for job, files in _outcomes(fleet, missing, planned, work, workers, ray, allow_import):
        if isinstance(files, str):
            trouble[job["place"]] = files
        else:
            with _writing(folder):
                land(files, folder / job["place"], job["key"])
            shutil.rmtree(work / job["key"], ignore_errors=True)
        note(f"{job['place']}: {files if isinstance(files, str) else 'done'}")
    if not trouble:  # else the next call goes on from the checkpoints in it
        shutil.rmtree(work, ignore_errors=True)
    made = sum(entry.plan is not None for entry in planned) - len(trouble)
    reusable = [assignment for assignment in assignments if assignment.path in complete]
    planned += [PlannedAssignment(assignment, artifact.read_plan(folder / assignment.path)) for assignment in reusable]
    order = [(device.name, model) for device, model in product(fleet.devices, fleet.models)]
    planned.sort(key=lambda entry: order.index((entry.assignment.device.name, entry.assignment.model)))
    rows = mark_chosen(_row(entry, folder, trouble) for entry in planned)
    result = Result(tuple(rows), made, len(reusable), folder)
    with _writing(folder):
        write_atomic(folder / SUMMARY, (json.dumps(result.to_dict()["rows"], indent=1) + "\n").encode())
    return result


def _outcomes(
    fleet: Fleet,
    missing: Sequence[Assignment],
    planned: list[PlannedAssignment],
    work: Path,
    workers: int | None,
    ray: str | None,
    allow_import: bool,
) -> Iterator[JobOutcome]:
    """Plan what is missing, each plan into ``planned``, and do the work of every plan, beside further planning."""

    def jobs() -> Iterator[Job]:
        for entry in plans_for(fleet, missing, allow_import=allow_import):
            planned.append(entry)
            if entry.plan is not None:
                yield entry.job

    if missing:
        with _writing(work.parent):
            work.mkdir(parents=True, exist_ok=True)
    workers = _usual_workers(fleet, len(missing)) if workers is None else workers
    plan_first = (workers == 1 and ray is None) or any(may_time(assignment.device) for assignment in missing)
    todo = list(jobs()) if plan_first else jobs()  # nothing else is at work then while networks are planned
    outcomes = (
        on_ray(execute_job, todo, "reconvene-fleet")
        if ray
        else in_processes(execute_job, todo, str(work), workers=workers)
    )
    yield from track(outcomes, "making artifacts", total=len(missing))


def _usual_workers(fleet: Fleet, jobs: int) -> int:
    return 1 if fleet.train else max(min(usable_cores(), _MOST_WORKERS, jobs), 1)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise FleetError where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise FleetError(f"cannot write to {folder}: {error.strerror or error}") from error


@contextmanager
def _folder_of_results(folder: Path) -> Iterator[None]:
    """Make the folder and lock it; afterwards remove it where nothing came into it. Raises FleetError."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder, error=FleetError):
            try:
                yield
            finally:
                with suppress(OSError):  # it holds something
                    folder.rmdir()


def _row(planned: PlannedAssignment, folder: Path, trouble: dict[str, str]) -> DeviceRow:
    assignment = planned.assignment
    row = DeviceRow(
        device=assignment.device.name,
        model=assignment.model,
        budget=dict(assignment.device.budget.asked),
        key=assignment.key,
        costs=planned.floor or {},
        trouble=planned.trouble,
    )
    if planned.plan is None:
        return replace(row, trouble=row.trouble + _left_from_before(folder, assignment.path))
    row = replace(row, limits=dict(planned.plan.limits), **cut_fields(planned.plan))
    if assignment.path in trouble:
        return replace(row, trouble=trouble[assignment.path] + _left_from_before(folder, assignment.path))
    stored = artifact.Artifact.open(folder / assignment.path)
    row = _with_files(replace(row, folder=assignment.path), assignment.device, stored)
    trained, as_cut = stored.training, stored.as_cut
    if as_cut is not None:
        row = replace(row, task=as_cut.task, score=as_cut.scores["pruned"], dense_score=as_cut.scores["dense"])
    return row if trained is None else replace(row, task=trained.task, score=trained.score)


def _with_files(row: DeviceRow, device: Device, stored: artifact.Artifact) -> DeviceRow:
    """With the size of the largest exported file, not of the plan; one that breaks its limit is trouble."""
    precision = device.precision or "fp32"
    exports = [entry for entry in stored.exports if entry.variant == "pruned" and entry.precision == precision]
    row = replace(row, files={entry.file: entry.bytes for entry in stored.exports})
    if not device.export or not exports:
        return row
    largest = max(exports, key=lambda entry: entry.bytes)
    costs, about = {**row.costs, "size": float(largest.bytes)}, {**row.about}
    dense = row.dense
    if "size" not in row.limits:  # then the dense network was not exported
        about["size"] = ExportedSize(device.export, precision).condition
        dense = {name: amount for name, amount in dense.items() if name != "size"}
    row = replace(row, costs=costs, dense=dense, about=about)
    if largest.bytes <= row.limits.get("size", inf):
        return row
    why = f"{largest.file} has {largest.bytes:,} bytes, more than the limit on size of {row.limits['size']:,.0f}"
    return replace(row, trouble=f"{why}. Ask for less. The artifact in {row.folder} stays")


def _left_from_before(folder: Path, relative_path: str) -> str:
    """A sentence on the artifact of an earlier call, for a device that gets none now; empty without one."""
    return (
        f". What lies in {relative_path} is from before, made for what was asked then"
        if (folder / relative_path).is_dir()
        else ""
    )
