"""How much a network amplifies the rounding of float32, measured against float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from reconvene.deploy.batch_comparison import BatchComparison
from reconvene.deploy.model_io import batch_size, outputs_of
from reconvene.deploy.runtimes.base import Session
from reconvene.errors import ModelError, VerificationError
from reconvene.structure.copies import copy_model
from reconvene.structure.inputs import map_tensors
from reconvene.utils.module_state import afresh_in_eval

ROUNDING_FACTOR = 4.0
"""How many times farther from float64 than PyTorch in float32 a file may be: runtimes add up in another order."""
MOST_ROUNDING = 1e-2
"""Error of PyTorch in float32 above which its outputs say nothing about a file."""


@dataclass(frozen=True)
class RoundingErrors:
    """How far PyTorch in float32 and the file are from PyTorch in float64: largest relative errors."""

    pytorch: float
    file: float

    def explains(self, tolerance: float) -> bool:
        """Whether the file is right where it differs from PyTorch in float32.

        It is within the tolerance of float64, or as exact as float32 is here, and float32 is exact enough to say so.
        """
        as_exact = self.pytorch <= MOST_ROUNDING and self.file <= ROUNDING_FACTOR * self.pytorch
        return self.file <= tolerance or as_exact

    def __str__(self) -> str:
        return f"from float64, PyTorch in float32 is off by {self.pytorch:.1e}, and the file by {self.file:.1e}"


def rounding_errors(model: nn.Module, session: Session, batches: Sequence[Any]) -> RoundingErrors | None:
    """Both errors over the batches; None for a model that does not compute in float64."""
    own = theirs = 0.0
    try:
        exact = afresh_in_eval(copy_model(model).double())
        for batch in batches:
            double = map_tensors(lambda t: t.double() if t.is_floating_point() else t, batch)
            reference = {name: value.detach().cpu() for name, value in outputs_of(exact, double).items()}
            single = {name: value.detach().cpu() for name, value in outputs_of(model, batch).items()}
            blank = BatchComparison(batch_size(batch))
            own = max(own, blank.with_batch(reference, single, location="").max_rel_error)
            theirs = max(theirs, blank.with_batch(reference, session.run(batch), location="").max_rel_error)
    except (RuntimeError, ValueError, TypeError, ModelError, VerificationError):
        return None
    return RoundingErrors(own, theirs)
