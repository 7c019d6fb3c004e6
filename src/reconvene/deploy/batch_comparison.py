"""Outputs of a file beside those of PyTorch, over all batches of one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reconvene.deploy.detections import in_same_order
from reconvene.errors import VerificationError
from reconvene.tasks import Task

# Two scores closer than this share of the largest output are a tie: float32 does not order them.
TIE = 1e-5


@dataclass(frozen=True)
class BatchComparison:
    """All batches of one size: the largest errors, where the relative one was, how often predictions were the same."""

    batch_size: int
    batches: int = 0
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0
    where: str = ""
    predictions: int = 0
    same: int = 0

    @property
    def agreement(self) -> float | None:
        """Share of equal predictions; ``None`` where no output has any."""
        return self.same / self.predictions if self.predictions else None

    def with_batch(
        self,
        expected: dict[str, Tensor],
        outputs: dict[str, Tensor],
        *,
        location: str,
        judges: Mapping[str, Task | None] = MappingProxyType({}),
        tie: float = TIE,
    ) -> BatchComparison:
        """Add one batch; ``judges`` says by name whose predictions outputs are.

        Detections are compared row by row in PyTorch's order.
        Predictions are equal where their scores are closer than ``tie`` times the largest.

        Raises VerificationError at once where outputs cannot be compared at all.
        """
        row = replace(self, batches=self.batches + 1)
        if len(expected) != len(outputs):
            raise VerificationError(f"{location}: the model returns {list(expected)}, the file {list(outputs)}")
        for (name, a), b in zip(expected.items(), in_same_order(expected, outputs).values(), strict=True):
            if a.shape != b.shape:
                raise VerificationError(
                    f"{location}: output {name!r} is {list(a.shape)} in PyTorch, {list(b.shape)} in the file"
                )
            row = row._with_output(name, a.double().numpy(), b.double().numpy(), judges.get(name), tie, location)
        return row

    def _with_output(self, name: str, a: Any, b: Any, task: Task | None, tie: float, location: str) -> BatchComparison:
        if np.isnan(a).any():
            raise VerificationError(f"{location}: output {name!r} is NaN in PyTorch already. Look at the weights")
        endless = np.isinf(a)
        if not np.array_equal(np.where(endless, a, 0), np.where(np.isfinite(b), 0, b)):
            raise VerificationError(f"{location}: output {name!r} is not finite in the file where it is in PyTorch")
        a, b = np.where(endless, 0, a), np.where(endless, 0, b)
        row, scale = self, float(np.abs(a).max(initial=0.0))
        if a.size:
            error = np.abs(a - b)
            position = np.unravel_index(int(error.argmax()), a.shape)
            largest = float(error[position])
            relative = largest / scale if scale else largest
            if relative >= row.max_rel_error:
                description = (
                    f"output {name!r} {[int(i) for i in position]}: {a[position]:.6g} in PyTorch, "
                    f"{b[position]:.6g} in the file"
                )
                row = replace(row, max_rel_error=relative, where=description)
            row = replace(row, max_abs_error=max(row.max_abs_error, largest))
        same = None if task is None else task.agreement(torch.from_numpy(a), torch.from_numpy(b), tie=tie * scale)
        if same is not None:
            row = replace(row, predictions=row.predictions + same.numel(), same=row.same + int(same.sum()))
        return row
