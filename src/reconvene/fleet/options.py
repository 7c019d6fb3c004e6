"""What a fleet's file says: devices with budgets, architectures, and what to do with each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from reconvene.costs import Budget, targets
from reconvene.criteria import CHANNEL_CRITERIA, CRITERIA
from reconvene.deploy import Limits
from reconvene.deploy.quantisation import PRECISIONS
from reconvene.deploy.runtimes.registry import FORMATS, memory_planners
from reconvene.evaluator import EVALUATORS
from reconvene.planning.target import Target
from reconvene.rectifier import RECTIFICATIONS
from reconvene.tasks import TASKS
from reconvene.utils.schema import Share
from reconvene.utils.settings import DISTINCT, LISTED, Argument, Names, Positive, Seed, Shape, one_of

Formats = Annotated[tuple[Annotated[str, one_of(FORMATS)], ...], DISTINCT, LISTED]


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What a device may say beside its budget: the profile that latencies are kept by, the formats it loads."""

    profile: str | None = None
    round_to: Positive | None = None
    export: Formats = ()
    models: Names = ()
    memory_of: Annotated[str, one_of(memory_planners)] | None = None
    precision: Annotated[str, one_of(PRECISIONS)] | None = None
    chip: Annotated[str, one_of(targets)] | None = None


@dataclass(frozen=True, kw_only=True)
class Device(DeviceOptions):
    """One device."""

    name: str
    budget: Budget

    @property
    def target(self) -> Target:
        """What its budget is about: sizes are those of the files it loads."""
        return Target(self.profile, self.export, self.memory_of, self.precision, self.chip)


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """What a file says about all devices; ``data``, ``task`` and ``limit`` as for ``reconvene.data.load_data``.

    ``trained``: the models are trained and keep their weights: folders of artifacts, or addresses whose weights are in
    a file (``weights``, by model; ``pretrained`` for those that torchvision or timm publish). ``keep``: layers that
    stay as they are.
    """

    models: Names
    args: dict[str, Argument] = field(default_factory=dict)
    input: Shape | None = None
    trained: bool = False
    weights: dict[str, str] = field(default_factory=dict)
    keep: Annotated[tuple[str, ...], DISTINCT, LISTED] = ()
    criterion: Annotated[str, one_of({**CRITERIA, **CHANNEL_CRITERIA})] | None = None
    evaluator: Annotated[str, one_of(EVALUATORS)] | None = None
    rectify: Annotated[str, one_of(RECTIFICATIONS)] | None = None
    seed: Seed = 0
    data: str = "digits"
    task: Annotated[str, one_of(TASKS)] | None = None
    limit: Positive | None = None
    export: Formats = ()


@dataclass(frozen=True, kw_only=True)
class Int8Settings:
    """How int8 files are calibrated, and what they must keep: see ``Int8`` and ``Limits``."""

    keep_fp32: Annotated[tuple[str, ...], DISTINCT, LISTED] = ()
    calibration_samples: Annotated[int, Field(ge=1, le=256)] = 256
    min_agreement: Share = Limits.agreement
    min_sqnr: float = Limits.sqnr
    max_accuracy_drop: Share = Limits.accuracy_drop

    @property
    def limits(self) -> Limits:
        """What a file must keep."""
        return Limits(self.min_agreement, self.min_sqnr, self.max_accuracy_drop)


@dataclass(frozen=True, kw_only=True)
class Fleet(FleetOptions):
    """Everything the file asks for.

    ``train``: the recipe with ``epochs``, empty for none. ``int8``: None where the file does not say. ``bases``: the
    folders of the models that are trained artifacts. ``where``: file and line of devices (``devices.NAME``), models
    (``models.NAME``) and ``keep``, for errors that only show when networks are planned.
    """

    devices: tuple[Device, ...]
    train: dict[str, Any] = field(default_factory=dict)
    int8: Int8Settings | None = None
    bases: dict[str, Path] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict, compare=False)
