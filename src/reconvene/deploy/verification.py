"""Whether an exported file computes what the model computes: outputs compared over data and several batch sizes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.batch_comparison import BatchComparison
from reconvene.deploy.model_io import (
    batch_size,
    in_inference,
    labelled_samples,
    noise,
    outputs_of,
    own_inputs,
    take_samples,
)
from reconvene.deploy.options import precision_of
from reconvene.deploy.rounding import RoundingErrors, rounding_errors
from reconvene.deploy.runtimes.base import Session
from reconvene.deploy.runtimes.registry import runtime_named, runtime_of
from reconvene.errors import ModelError, VerificationError
from reconvene.tasks import Task, Witnesses, judge, task_named
from reconvene.utils.progress import track
from reconvene.utils.tables import text_table

NOISE_SAMPLES = 24
HALF_TOLERANCE = 1e-2
"""Largest error of a float16 file that is no fault, as a share of the largest output: a half has eleven bits, one part
in two thousand, and a deep network rounds many times. Runtimes differ in what they add up in float32."""


def verify_export(
    model: nn.Module,
    path: str | Path,
    *,
    example_inputs: Any = None,
    data: Iterable[Any] | None = None,
    runtime: str | None = None,
    batch_sizes: Sequence[int] | None = None,
    samples: int = 96,
    tolerance: float | None = None,
    agreement: float = 0.99,
    task: str | None = None,
    seed: int = 0,
) -> Verification:
    """Compare the file with ``model`` in eval mode in PyTorch; raise VerificationError unless they agree.

    ``data`` is an iterable of ``(inputs, target)`` batches, of which up to ``samples`` samples are used; without it,
    two rounds of noise from ``seed``. They are cut into batches of ``batch_sizes`` in turn: 1, 3 and 8, or where the
    file's batch is not free, that one. An output agrees when its largest absolute error is at most ``tolerance`` (by
    default the runtime's own, ``HALF_TOLERANCE`` for a model in float16) times its largest absolute value in the batch.
    A deep network may amplify the rounding of float32 beyond the default. Then both are compared with the model in
    float64, and the file agrees where it is hardly farther from it than PyTorch in float32 is (``RoundingErrors``).
    Where outputs are scores of classes, which ``task`` (a name in ``reconvene.tasks.TASKS``) or labels in the data say,
    at least the share ``agreement`` of the predictions must be the same.

    Raises also ModelError (the model or the file does not run) and DataError (no samples).
    """
    named = None if task is None else task_named(task)
    chosen = runtime_of(Path(path)) if runtime is None else runtime_named(runtime)
    usual = tolerance is None
    if tolerance is None:
        tolerance = HALF_TOLERANCE if precision_of(model, None)[0] == "fp16" else chosen.tolerance
    with chosen.open(Path(path), 1) as session, in_inference(model):
        sizes = batch_sizes or ((1, 3, 8) if session.batch is None else (session.batch,))
        pool, targets = _pool(model, example_inputs, data, samples, max(NOISE_SAMPLES, 2 * sum(sizes)), seed)
        comparison = _Comparison(
            session, chosen.name, named, tie=tolerance / 10, rows={s: BatchComparison(s) for s in sizes}
        )
        # every batch size is tried, on repeated samples if there are few
        cuts = list(_cuts(sizes, max(batch_size(pool), sum(sizes))))
        for start, size in track(cuts, "comparing with PyTorch", total=len(cuts)):
            labels = None if targets is None else take_samples(targets, start, size)
            comparison.compare(model, take_samples(pool, start, size), labels, size)
        rows, rounding = tuple(comparison.rows.values()), None
        beyond = max(row.max_rel_error for row in rows) > tolerance
        if usual and beyond and precision_of(model, None)[0] == "fp32":
            rounding = rounding_errors(model, session, [take_samples(pool, start, size) for start, size in cuts])
    unchanging = tuple(name for name, first in comparison.constant.items() if first is not None)
    source = f"noise, seed {seed}" if data is None else "real data"
    result = Verification(
        chosen.name,
        source,
        batch_size(pool),
        tolerance,
        agreement,
        rows,
        unchanging,
        comparison.witnesses.warning,
        rounding,
    )
    result.check()
    return result


def _pool(
    model: nn.Module, example_inputs: Any, data: Iterable[Any] | None, samples: int, count: int, seed: int
) -> tuple[Any, Tensor | None]:
    """The samples to compare on, with their targets where the data has some."""
    if data is None:
        return noise(own_inputs(model, example_inputs, seed=seed), count, seed=seed), None
    inputs, targets = labelled_samples(data, samples)
    return own_inputs(model, inputs), targets


@dataclass
class _Comparison:
    """One file beside its model, batch by batch."""

    session: Session
    runtime: str
    task: Task | None
    tie: float
    rows: dict[int, BatchComparison]
    constant: dict[str, Tensor | None] = field(default_factory=dict)
    witnesses: Witnesses = field(default_factory=Witnesses)

    def compare(self, model: nn.Module, batch: Any, targets: Tensor | None, size: int) -> None:
        """Raises VerificationError at once where outputs cannot be compared at all."""
        expected = {name: value.detach().cpu() for name, value in outputs_of(model, batch).items()}
        try:
            outputs = self.session.run(batch)
        except ModelError as error:
            raise VerificationError(f"batch size {size}: {error}") from error
        _compare_samples(self.constant, expected, size)
        targets = None if targets is None else targets.cpu()
        judges = {name: judge(value, targets, self.task) for name, value in expected.items()}
        self.witnesses.see(judges, expected)
        location = f"{self.runtime} at batch size {size}"
        self.rows[size] = self.rows[size].with_batch(expected, outputs, location=location, judges=judges, tie=self.tie)


def _cuts(batch_sizes: Sequence[int], total: int) -> Iterator[tuple[int, int]]:
    start = 0
    for size in itertools.cycle(batch_sizes):
        if start >= total:
            return
        yield start, size
        start += size


def _compare_samples(constant: dict[str, Tensor | None], outputs: dict[str, Tensor], size: int) -> None:
    """Keep the first sample of every output as long as all samples equal it."""
    for name, output in outputs.items():
        samples = output if output.ndim and output.shape[0] == size else output.unsqueeze(0)
        first = constant.setdefault(name, samples[0])
        if first is not None and not all(torch.equal(sample, first) for sample in samples):
            constant[name] = None


@dataclass(frozen=True)
class Verification:
    """How far the file and PyTorch were apart, one row a batch size.

    ``data`` says in words what they were compared on; ``samples`` how many different samples that was. ``unchanging``
    names outputs that were the same for every sample (a head that starts at zero): their agreement proves little;
    ``single_class`` says where predictions were the same for every sample.
    """

    runtime: str
    data: str
    samples: int
    tolerance: float
    required_agreement: float
    rows: tuple[BatchComparison, ...]
    unchanging: tuple[str, ...] = ()
    single_class: str = ""
    rounding: RoundingErrors | None = None

    def check(self) -> None:
        """Raise VerificationError naming the worst batch size, unless every row is within the limits."""
        worst = max(self.rows, key=lambda row: row.max_rel_error)
        if worst.max_rel_error > self.tolerance and not (self.rounding and self.rounding.explains(self.tolerance)):
            exact = "" if self.rounding is None else f"; {self.rounding}"
            raise VerificationError(
                f"{self.runtime} disagrees with PyTorch at batch size {worst.batch_size}: relative error "
                f"{worst.max_rel_error:.2e}, tolerance {self.tolerance:.0e}; worst at {worst.where}. On {self.data}"
                f"{exact}"
            )
        for row in self.rows:
            if row.agreement is not None and row.agreement < self.required_agreement:
                raise VerificationError(
                    f"{self.runtime} predicts otherwise than PyTorch at batch size {row.batch_size}: {row.same} of "
                    f"{row.predictions} predictions are the same, {self.required_agreement:.1%} are required. "
                    f"On {self.data}"
                )

    @property
    def max_abs_error(self) -> float:
        """Over all batches."""
        return max(row.max_abs_error for row in self.rows)

    @property
    def max_rel_error(self) -> float:
        """Over all batches: largest absolute error over largest absolute value of the output in its batch."""
        return max(row.max_rel_error for row in self.rows)

    @property
    def short(self) -> dict[str, Any]:
        """What a file that stands for itself says of this."""
        return {"data": self.data, "max_rel_error": self.max_rel_error}

    @property
    def agreement(self) -> float | None:
        """Share of equal predictions over all batches; ``None`` where no output has any."""
        predictions = sum(row.predictions for row in self.rows)
        return sum(row.same for row in self.rows) / predictions if predictions else None

    def __str__(self) -> str:
        title = f"verified in {self.runtime} on {self.samples} samples of {self.data}, tolerance {self.tolerance:.0e}"
        header = ("batch size", "batches", "max abs error", "relative", "agreement")
        rows = [
            (
                str(row.batch_size),
                str(row.batches),
                f"{row.max_abs_error:.2e}",
                f"{row.max_rel_error:.1e}",
                "-" if row.agreement is None else f"{row.agreement:.2%}",
            )
            for row in self.rows
        ]
        return text_table(header, rows, right=range(5), title=title, foot=[self.warning] if self.warning else [])

    @property
    def warning(self) -> str:
        """What the reader must know about the evidence; empty where there is nothing."""
        parts = [] if self.rounding is None else [f"the network amplifies rounding: {self.rounding}"]
        if self.unchanging:
            names = ", ".join(self.unchanging)
            parts.append(f"{names}: the same for every sample in PyTorch, so agreement there proves little")
        elif self.single_class:
            parts.append(self.single_class)
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        totals: dict[str, Any] = {
            "warning": self.warning,
            "max_abs_error": self.max_abs_error,
            "max_rel_error": self.max_rel_error,
            "agreement": self.agreement,
        }
        return {**asdict(self), "rows": [{**asdict(row), "agreement": row.agreement} for row in self.rows], **totals}

    def to_json(self) -> str:
        """JSON text of ``to_dict``."""
        return json.dumps(self.to_dict(), indent=2)
