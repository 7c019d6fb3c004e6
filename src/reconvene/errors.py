"""Every error Reconvene raises on purpose. Messages say what was asked, what was found, where, and what to try."""

from __future__ import annotations

from collections.abc import Iterable


class ReconveneError(Exception):
    """Base of the family: catching it catches everything the package raises on purpose."""


class UnknownNameError(ReconveneError):
    """A lookup by name failed; the message lists the names that exist."""

    def __init__(self, kind: str, name: object, available: Iterable[str]) -> None:
        self.kind, self.name, self.available = kind, name, sorted(available)
        super().__init__(f"unknown {kind} {name!r}. Available: {', '.join(self.available)}")


class MissingExtraError(ReconveneError):
    """An optional dependency is not installed, or too old; the message names the extra that brings it."""

    def __init__(
        self,
        package: str,
        extra: str,
        needed_for: str,
        *,
        least: str | None = None,
        found: str | None = None,
        first: str | None = None,
    ) -> None:
        self.package, self.extra = package, extra
        if found is not None:
            what, command = f"{package} {least} or newer, and {found} is installed", "pip install --upgrade"
        else:
            what, command = f"{package}, which is not installed", "pip install"
            if first is not None:
                command = f"in an environment of its own, pip install {first} and then {command}"
        super().__init__(f"{needed_for} needs {what}. Try: {command} 'reconvene[{extra}]'")


class ModelError(ReconveneError):
    """The model cannot be used as given: it does not run on the inputs, or holds what we refuse to touch."""


class StructureError(ReconveneError):
    """The structure of the model could not be found, or what was found failed its proof."""


class CriterionError(ReconveneError):
    """A saliency criterion cannot score this model: no data, non-finite scores, nothing to score."""


class BudgetError(ReconveneError):
    """A budget cannot be read, or cannot be kept; then ``floor`` holds what each cost could fall to."""

    def __init__(self, message: str, floor: dict[str, float] | None = None) -> None:
        super().__init__(message)
        self.floor = floor or {}


class DeviceError(ReconveneError):
    """A device profile is missing, damaged, or does not fit; or a device does not answer."""


class FleetError(ReconveneError):
    """A fleet's file is wrong, or its work cannot be given to anybody."""


class PlanError(ReconveneError):
    """A plan file is damaged, or does not fit the model it is applied to."""


class ArtifactError(ReconveneError):
    """An artifact is missing, truncated, altered, foreign, or newer than this version."""


class DataError(ReconveneError):
    """A dataset is missing, empty, or does not fit the model."""


class TrainingError(ReconveneError):
    """Training cannot go on: NaN loss, a checkpoint of another run, a wrong number of classes."""


class ExportError(ReconveneError):
    """The model could not be exported to the asked format."""


class VerificationError(ReconveneError):
    """What was exported does not compute what the model computes."""


class ExperimentError(ReconveneError):
    """An experiment cannot be read or run as written: the message says which part of it and what would work."""
