"""Every error Reconvene raises on purpose. Messages say what was asked, what was found, where, and what to try."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MODEL_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError, AttributeError)
"""What the forward pass of a model raises for inputs that it does not take."""

# Reasons and layers that a message names at most.
_NAMED = 3
_LITTLE = 0.1
"""Share of a floor below which what is pinned does not explain it."""


@dataclass(frozen=True)
class PinnedShare:
    """A part of a cost that one kind of reason keeps: ``amount`` in the unit of the cost, ``share`` of dense."""

    reason: str
    layers: tuple[str, ...]
    amount: float
    share: float

    def __str__(self) -> str:
        others = f" and {len(self.layers) - 1} more" if len(self.layers) > 1 else ""
        location = f" (in {self.layers[0]}{others})" if self.layers and self.layers[0] else ""
        return f"{_percent(self.share)} {self.reason}{location}"


@dataclass(frozen=True)
class PinnedCost:
    """The part of one cost that no choice of channels can remove, and the reasons.

    ``amount`` of ``dense`` lies where nothing may leave; ``shares`` divide it by reason, the largest first. ``floor``
    is the least cost that could be reached, where one was looked for: beyond ``amount`` it holds the least widths of
    groups that can be pruned. Amounts are in the unit of the cost; ``plural`` names them ("parameters").
    """

    cost: str
    dense: float
    amount: float
    shares: tuple[PinnedShare, ...]
    floor: float | None = None
    plural: str = "amount"

    def __str__(self) -> str:
        if self.floor and self.amount < _LITTLE * self.floor:
            return f"nearly all {self.plural} can leave: the floor is every layer at its least width"
        text = f"{_percent(self.amount / self.dense if self.dense else 0.0)} of the {self.plural} cannot leave"
        named = [str(share) for share in self.shares[:_NAMED]]
        remaining_share = sum(share.share for share in self.shares[_NAMED:])
        text += (
            f": {', '.join([*named, *([f'{_percent(remaining_share)} other reasons'] if remaining_share else [])])}"
            if named
            else ""
        )
        if self.floor:
            kept = min(self.amount / self.floor, 1.0)
            text += f"; that is {_percent(kept)} of the floor, the rest is the other layers at their least widths"
        return text


def _percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


class ReconveneError(Exception):
    """Base of the family: catching it catches everything the package raises on purpose."""


class ArgumentError(ReconveneError):
    """An argument of a public function has a type or a value that the function cannot work with."""


class ResourceError(ReconveneError):
    """The machine cannot do it: memory, or Python's limit of nested calls, is used up."""


class UnknownNameError(ReconveneError):
    """A lookup by name failed; the message lists the names that exist, and first the one that is nearest."""

    def __init__(
        self,
        kind: str,
        name: object,
        available: Iterable[str],
        *,
        nearest: Iterable[str] | None = None,
        advice: str = "",
    ) -> None:
        """``nearest``: names that may be meant; by default the one of ``available`` that is spelt most alike.

        ``advice``: a last sentence, on what else to try.
        """
        self.kind, self.name, self.available = kind, name, sorted(available)
        hint = suggestion(name, self.available) if nearest is None else _question(nearest)
        listed = ", ".join(self.available) + (f". {advice}" if advice else "")
        super().__init__(f"unknown {kind} {name!r}.{hint} Available: {listed}")


def suggestion(name: object, available: Iterable[str]) -> str:
    """``" Did you mean 'synflow'?"`` for the nearest of the available names; empty where none is near.

    Near is also what begins with the name, such as onnxruntime for onnx.
    """
    names, word = {entry.lower(): entry for entry in available}, str(name).lower()
    matches = difflib.get_close_matches(word, names, n=1)
    matches = matches or [entry for entry in names if len(word) > 2 and entry.startswith(word)][:2]
    return _question(names[match] for match in matches)


def _question(names: Iterable[str]) -> str:
    listed = " or ".join(map(repr, names))
    return f" Did you mean {listed}?" if listed else ""


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
            requirement, command = f"{package} {least} or newer, and {found} is installed", "pip install --upgrade"
        else:
            requirement, command = f"{package}, which is not installed", "pip install"
            if first is not None:
                command = f"in an environment of its own, pip install {first} and then, in the clone, {command}"
        package_name = "reconvene" if first is None else "."
        super().__init__(f"{needed_for} needs {requirement}. Try: {command} '{package_name}[{extra}]'")


class ModelError(ReconveneError):
    """The model cannot be used as given: it does not run on the inputs, or holds what we refuse to touch."""


class StructureError(ReconveneError):
    """The structure of the model could not be found, or failed its proof.

    Where nothing can be pruned, ``pinned`` says by cost what keeps it.
    """

    def __init__(self, message: str, pinned: Mapping[str, PinnedCost] | None = None) -> None:
        super().__init__(message)
        self.pinned = dict(pinned or {})


class CriterionError(ReconveneError):
    """A saliency criterion cannot score this model: no data, non-finite scores, nothing to score."""


class BudgetError(ReconveneError):
    """A budget cannot be read, or cannot be kept.

    Then ``floor`` holds what each cost could fall to, and ``pinned`` what of the costs that cannot be kept lies where
    nothing may leave, and why; costs that are sums over layers can be divided so.
    """

    def __init__(
        self,
        message: str,
        floor: dict[str, float] | None = None,
        pinned: Mapping[str, PinnedCost] | None = None,
    ) -> None:
        super().__init__(message)
        self.floor = floor or {}
        self.pinned = dict(pinned or {})


class CostFileError(ReconveneError):
    """A cost file is missing, cannot be read, or says nothing of a layer; the message names the entry."""


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


class Diverged(TrainingError):
    """A loss or a gradient became infinite or no number."""


class ExportError(ReconveneError):
    """The model could not be exported to the asked format."""


class VerificationError(ReconveneError):
    """What was exported does not compute what the model computes."""


class RecipeError(ReconveneError):
    """A recipe cannot be read or carried out as written, or its folder holds stages of another one."""


class ExperimentError(ReconveneError):
    """An experiment cannot be read or run as written: the message says which part of it and what would work."""


class PluginError(ReconveneError):
    """A module that adds something of its own cannot be imported."""
