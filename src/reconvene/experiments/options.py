"""What options of arms may be: their types, and what several of them, or the epochs, must be together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from reconvene.criteria import CHANNEL_CRITERIA, CRITERIA
from reconvene.criteria.layerwise import LAYERWISE
from reconvene.errors import ExperimentError
from reconvene.evaluator import EVALUATORS
from reconvene.experiments.context import EVERYWHERE
from reconvene.rectifier import RECTIFICATIONS, TRAINED_WAYS
from reconvene.utils.settings import Positive, one_of

Options = Mapping[str, Any]

FITTEST = 3
"""Candidates of a search that have children; there must be others."""


def _criteria_of_trained() -> list[str]:
    """Criteria of channels, and those of weights that look at no data: those would be given none."""
    return [*CHANNEL_CRITERIA, *(name for name, entry in CRITERIA.items() if entry.needs != "data")]


def _evaluators_of_weights() -> list[str]:
    return [name for name, entry in EVALUATORS.items() if "channels" not in entry.reads]


def _one_or_none(names: Collection[str]) -> Any:
    """One of these names, or an empty text."""
    check: Any = one_of(names).func
    return Annotated[str, AfterValidator(lambda value: value and check(value))]


OPTION_TYPES: dict[str, Any] = {
    "criterion": Annotated[str, one_of(CRITERIA)],
    "evaluator": Annotated[str, one_of(_evaluators_of_weights)],
    "rectify": Annotated[str, one_of([way for way in (*RECTIFICATIONS, EVERYWHERE) if way not in TRAINED_WAYS])],
    "layerwise": _one_or_none(LAYERWISE),
    "share": Annotated[float, Field(gt=0, le=1)],
    "dense_share": Annotated[float, Field(gt=0, lt=1)],
    "teacher": Annotated[float, Field(ge=0, le=1)],
    "population": Annotated[int, Field(gt=FITTEST)],
    **dict.fromkeys(("generations", "proxy_epochs", "proxy_images", "tune"), Positive),
    "bits": Literal[2, 4, 8],
}
"""By the name of an option; of others the type of the usual value."""
CRITERION_OR_NONE = _one_or_none(CRITERIA)
TRAINED_TYPES: dict[str, Any] = {
    "criterion": Annotated[str, one_of(_criteria_of_trained)],
    "rectify": Annotated[str, one_of((*RECTIFICATIONS, EVERYWHERE))],
}


def require_read_criterion(options: Options, usual: Options) -> None:
    """Raise ExperimentError where another criterion than the usual one would change nothing."""
    criterion = options["criterion"]
    ignored = not EVALUATORS[options["evaluator"]].reads and options["rectify"] in ("reinit", EVERYWHERE)
    if ignored and criterion not in ("", usual["criterion"]):
        raise ExperimentError(
            f"criterion {criterion!r} changes nothing: evaluator {options['evaluator']!r} reads no scores, and rectify "
            f"{options['rectify']!r} draws the weights of the channels that are kept anew. Add evaluator = 'density' "
            "or rectify = 'keep', or leave the criterion out"
        )


def require_tuning(options: Options, usual: Options) -> None:
    """Raise ExperimentError where an option is about the tuning that ``scratch`` leaves out."""
    changed = [name for name in ("rectify", "teacher") if options[name] != usual[name]]
    if options["scratch"] and changed:
        raise ExperimentError(
            f"{changed[0]} = {options[changed[0]]!r} changes nothing with scratch, which draws all weights anew and "
            "has no teacher. Leave one of them out"
        )


def epochs_of_dense(arm: str, options: Options, epochs: int) -> int:
    """The epochs of the dense network, a share of all. Raises ExperimentError if none is left after them."""
    first = max(1, round(epochs * float(options["dense_share"])))
    if first >= epochs:
        raise ExperimentError(f"{arm}: {epochs} epochs leave none after {first} dense ones. Give more epochs")
    return first


def epochs_before_tuning(options: Options, epochs: int, *, least: int = 1) -> int:
    """The epochs of the dense network before ``tune`` others. Raises ExperimentError if either are too few."""
    tune = int(options["tune"])
    if tune < least:
        raise ExperimentError(f"tune={tune} leaves no epochs to search. Give {least} at least")
    if tune >= epochs:
        raise ExperimentError(
            f"{epochs} epochs leave {max(0, epochs - tune)} for the dense network, with tune={tune}. Give more epochs, "
            f"or a smaller tune"
        )
    return epochs - tune
