"""What a fleet asks for: every device with every architecture that it takes, and a plan for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from reconvene.artifact.sections import PruningSettings
from reconvene.costs import COSTS
from reconvene.data import count_images, files_sha256
from reconvene.data.calibration import TRAINED_SAMPLES
from reconvene.devices import HERE, find, measuring_conditions
from reconvene.errors import BudgetError, FleetError, MissingExtraError, ReconveneError
from reconvene.fleet.job import job_key
from reconvene.fleet.networks import data_choice, origin_of, result_folder
from reconvene.fleet.options import Device, Fleet
from reconvene.models import example_inputs
from reconvene.planning.limits import LayerLimits, matching
from reconvene.planning.options import Options
from reconvene.planning.pruning import plan_with
from reconvene.planning.session import Planner
from reconvene.surgery import Plan
from reconvene.tasks import DEFAULT
from reconvene.utils.executors import Job
from reconvene.utils.progress import note, track
from reconvene.workflow.inputs import dataset_for
from reconvene.workflow.origin import Origin
from reconvene.workflow.prune import Samples

# At which share of the weights every architecture is scored, once for all budgets.
DENSITY = 1 / 32


@dataclass(frozen=True)
class Assignment:
    """A device and a model: where its artifact goes, and all that decides it but the plan.

    Attributes:
        model: as the fleet's file names it.
        path: of the artifact, under the fleet's folder.
        key: of everything that decides the artifact.
        options: of the job, in JSON types.
        settings: what the artifact says was asked of its pruning.
        examples: training images of an epoch, where somebody knows.
    """

    device: Device
    model: str
    origin: Origin
    path: str
    key: str
    options: dict[str, Any]
    settings: PruningSettings
    examples: int | None


@dataclass(frozen=True)
class PlannedAssignment:
    """An assignment with its plan, or with why there is none and the least that can be kept."""

    assignment: Assignment
    plan: Plan | None = None
    trouble: str = ""
    floor: dict[str, float] | None = None

    @property
    def job(self) -> Job:
        """The work that makes the artifact of a plan."""
        assert self.plan is not None
        assignment = self.assignment
        settings = {**asdict(assignment.settings), "criterion": self.plan.criterion}
        identity = {"key": assignment.key, "place": assignment.path}
        return {**assignment.options, "plan": self.plan.to_dict(), "settings": settings, **identity}


def assignments_of(fleet: Fleet, *, allow_import: bool) -> list[Assignment]:
    """All assignments of a fleet, one architecture after the other. Raises UnknownNameError, ModelError."""
    examples, data_sha256 = _examples(fleet), files_sha256(fleet.data)
    assignments = []
    for model in fleet.models:
        devices = [device for device in fleet.devices if not device.models or model in device.models]
        if not devices:
            continue
        origin = origin_of(fleet, model, allow_import=allow_import)
        shared = {name: getattr(fleet, name) for name in ("rectify", "seed", "data", "limit", "train")}
        shared |= {
            "source": origin.source.to_dict(),
            "allow_import": allow_import,
            **_digests(data=data_sha256, code=origin.source.code_sha256(allow_import=allow_import)),
            **_beyond_usual(fleet, model, origin),
        }
        folder = result_folder(model, origin.base)
        for device in devices:
            options = {**shared, "export": list(device.export), "precision": device.precision, "chip": device.chip}
            path = f"{device.name}/{folder}"
            key = job_key({**options, **_request(fleet, device), "examples": examples, "place": path})
            assignments.append(
                Assignment(device, model, origin, path, key, options, _settings(fleet, device), examples)
            )
    return assignments


def _digests(**digests: str | None) -> dict[str, str]:
    return {f"{name}_sha256": digest for name, digest in digests.items() if digest is not None}


def _settings(fleet: Fleet, device: Device) -> PruningSettings:
    assert fleet.rectify is not None, "completed when the file was read"
    return PruningSettings(
        criterion=fleet.criterion,
        evaluator=fleet.evaluator,
        rectify=fleet.rectify,
        round_to=device.round_to,
        seed=fleet.seed,
        device=device.profile,
        size_of=device.export if "size" in device.budget else (),
        memory_of=device.memory_of,
        precision=device.precision,
        keep=fleet.keep,
        trained=fleet.trained,
        chip=device.chip,
    )


def _beyond_usual(fleet: Fleet, model: str, origin: Origin) -> dict[str, Any]:
    """Options of a job that are left out where they are the usual ones: a key then is that of earlier releases."""
    options: dict[str, Any] = {} if fleet.task == DEFAULT.name else {"task": fleet.task}
    options |= {} if fleet.int8 is None else {"int8": asdict(fleet.int8)}
    options |= {"keep": list(fleet.keep)} if fleet.keep else {}
    if fleet.trained:
        choice = data_choice(fleet, model, origin.source)
        paths = {"base": origin.base, "weights": origin.weights}
        files = {name: None if path is None else str(path) for name, path in paths.items()}
        options |= {"trained": True, **files, "weights_sha256": origin.sha256, "mean": choice.mean, "std": choice.std}
    return options


def plans_for(fleet: Fleet, assignments: Sequence[Assignment], *, allow_import: bool) -> Iterator[PlannedAssignment]:
    """Plans as they come; structure and scores of an architecture are found once.

    A budget that cannot be kept is the trouble of its assignment. Raises MissingExtraError, and FleetError with the
    line of the model, of ``keep`` or of the device for everything else.
    """
    for model, group in groupby(assignments, key=lambda assignment: assignment.model):
        same = list(group)
        planner: Planner | None = None
        keepable = 0
        for assignment in track(same, f"planning {model}", total=len(same)):
            device = assignment.device
            if planner is None:
                with _located(fleet, f"models.{model}", model):
                    planner = _planner_of(fleet, assignment, allow_import=allow_import)
                    _ = planner.prepared  # whatever is wrong with the model shows here
            try:
                with _located(fleet, f"devices.{device.name}", f"device {device.name}, {model}"):
                    plan = plan_with(planner, device.budget, round_to=device.round_to, target=device.target)
            except BudgetError as error:
                yield PlannedAssignment(assignment, trouble=str(error), floor=error.floor)
                continue
            keepable += 1
            yield PlannedAssignment(assignment, replace(plan, examples=assignment.examples))
        note(f"{model}: {keepable} of {len(same)} budgets can be kept")


@contextmanager
def _located(fleet: Fleet, entry: str, subject: str) -> Iterator[None]:
    """Give errors the file and line of an entry of the fleet, but those of budgets and of what is not installed."""
    try:
        yield
    except (BudgetError, FleetError, MissingExtraError):
        raise
    except ReconveneError as error:
        where = f"{fleet.where[entry]}: " if entry in fleet.where else ""
        raise FleetError(f"{where}{subject}: {error}") from error


def may_time(device: Device) -> bool:
    """Whether planning for it may time networks on this machine, which other work would disturb."""
    measured = any(name in COSTS and COSTS[name].measured for name in device.budget.asked)
    return measured or device.profile is not None or "latency" in device.budget


def _examples(fleet: Fleet) -> int | None:
    """Training images of an epoch; None where counting takes a download, or an extra that is not installed."""
    try:
        return count_images(fleet.data, task=fleet.task or DEFAULT, limit=fleet.limit)
    except MissingExtraError:
        return None


def _request(fleet: Fleet, device: Device) -> dict[str, Any]:
    profile: Any = None
    if device.profile not in (None, HERE):
        profile = find(device.profile).to_dict()
    elif device.profile == HERE or "latency" in device.budget:
        conditions = measuring_conditions(1, device.precision or "fp32")  # measured elsewhere, it is measured again
        profile = {name: value for name, value in conditions.items() if name != "date"}
    request: dict[str, Any] = {"budget": dict(device.budget.asked), "profile": profile, "round_to": device.round_to}
    request |= {"memory_of": device.memory_of, "precision": device.precision}
    return {**request, "criterion": fleet.criterion, "evaluator": fleet.evaluator}


def _planner_of(fleet: Fleet, assignment: Assignment, *, allow_import: bool) -> Planner:
    """A planner that scores once for all devices of a fleet."""
    origin = assignment.origin
    source = origin.source
    assert source.input_shape is not None, "resolve_address() fills it in"
    built = origin.build(allow_import=allow_import)
    with _located(fleet, "keep", assignment.model):
        for pattern in fleet.keep:
            matching(built, pattern, "layer to keep")
    samples = Samples(
        lambda: dataset_for(origin.base, fleet.data, data_choice(fleet, assignment.model, source)),
        seed=fleet.seed,
        most=TRAINED_SAMPLES * fleet.trained,
    )
    if fleet.trained:
        samples.try_on(built)
    inputs = example_inputs(source.input_shape, seed=fleet.seed)
    options = Options(
        criterion=fleet.criterion,
        data=samples,
        seed=fleet.seed,
        trained=fleet.trained,
        loss=samples.loss_for(fleet.task, trained=fleet.trained),
        limits=LayerLimits(fleet.keep),
        evaluator=fleet.evaluator,
    )
    return options.planner(built, inputs, density=DENSITY)
