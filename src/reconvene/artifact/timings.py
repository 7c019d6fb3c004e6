"""How long the steps took that made an artifact: ``timings.json``, beside a manifest that a seed alone decides."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from reconvene.artifact.training_record import Training
from reconvene.errors import ArtifactError
from reconvene.utils import schema
from reconvene.utils.files import read_regular, write_atomic
from reconvene.utils.schema import Seconds

TIMINGS = "timings.json"
_LIMIT = 2**20
_REMEDY = "Remove it: nothing else depends on it"


@schema.opened
@dataclass(frozen=True)
class Timings:
    """Seconds of each step of pruning, in order, and of the parts of training; None where they are not known."""

    pruning: dict[str, Seconds] = field(default_factory=dict)
    training: Seconds | None = None
    quantising: Seconds | None = None
    recalibration: Seconds | None = None
    rate_test: Seconds | None = None

    @classmethod
    def of(cls, training: Training, *, pruning: dict[str, float]) -> Timings:
        """Those of a training, after the steps of pruning."""
        parts = (training, training.quantised, training.recalibration, training.found_rate)
        return cls(pruning, *(None if part is None else part.seconds for part in parts))

    def to_json(self) -> bytes:
        """As the file holds it."""
        return (json.dumps(asdict(self), indent=1, allow_nan=False) + "\n").encode()

    def put_into(self, training: Training) -> Training:
        """``training`` with the seconds that are known; those that it has itself, of an older release, stay."""
        quantised, recalibration = training.quantised, training.recalibration
        if quantised is not None and quantised.seconds is None:
            quantised = replace(quantised, seconds=self.quantising)
        if recalibration is not None and recalibration.seconds is None:
            recalibration = replace(recalibration, seconds=self.recalibration)
        found_rate = training.found_rate
        if found_rate is not None and found_rate.seconds is None:
            found_rate = replace(found_rate, seconds=self.rate_test)
        seconds = self.training if training.seconds is None else training.seconds
        return replace(
            training, seconds=seconds, quantised=quantised, recalibration=recalibration, found_rate=found_rate
        )


def read_timings(folder: Path) -> Timings:
    """The timings of an artifact; empty where there are none. Raises ArtifactError where the file is damaged."""
    path = folder / TIMINGS
    if not path.exists():
        return Timings()
    text = read_regular(path, limit=_LIMIT, error=ArtifactError)
    values: Any = schema.parse_json(text, source=path, error=ArtifactError, remedy=_REMEDY)
    if isinstance(values, dict) and "pruning" not in values:
        # As earlier releases wrote it: the steps of pruning alone.
        return schema.convert(Timings, {"pruning": values}, source=path, error=ArtifactError, remedy=_REMEDY)
    return schema.read_json(Timings, text, source=path, error=ArtifactError, remedy=_REMEDY)


def write_timings(folder: Path, timings: Timings | None) -> None:
    """Keep the timings of an artifact in place of earlier ones; None takes those away. Raises ArtifactError."""
    if timings is not None:
        write_atomic(folder / TIMINGS, timings.to_json())
        return
    try:
        (folder / TIMINGS).unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot remove {folder / TIMINGS}: {error.strerror or error}") from error
