"""Whether an int8 file is still the same network: quality, agreement of predictions and SQNR on real data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.layerwise import sqnr
from reconvene.deploy.model_io import batch_size, in_inference, labelled_samples, outputs_of, own_inputs, take_samples
from reconvene.deploy.runtimes.base import Session
from reconvene.deploy.runtimes.registry import runtime_named, runtime_of
from reconvene.errors import ModelError, VerificationError
from reconvene.tasks import DEFAULT, Task, Witnesses, judge, task_compared_by, task_named
from reconvene.utils.numbers import distinct
from reconvene.utils.progress import track
from reconvene.utils.tables import text_table

_BATCH = 32
SAMPLES = 512


@dataclass(frozen=True)
class Limits:
    """What an int8 file must keep beside its float32 network in PyTorch, on the same samples."""

    agreement: float = 0.95
    """Least share of samples (pixels, in a dense prediction) with the same most likely class, if there are classes."""
    sqnr: float = 10.0
    """Least signal to quantisation noise of the outputs, in dB: at 10 dB noise has a tenth of the signal's power."""
    accuracy_drop: float = 0.02
    """Most accuracy (or other share that the task measures quality by) that may be lost: 0.02 is two points."""

    def __post_init__(self) -> None:
        if not (0 <= self.agreement <= 1 and 0 <= self.accuracy_drop <= 1):
            raise ModelError(f"agreement={self.agreement} and accuracy_drop={self.accuracy_drop} must be in [0, 1]")


@dataclass(frozen=True)
class Fidelity:
    """How an int8 file compares with float32 in PyTorch. ``None``: outputs are no classes, or no targets in the data.

    ``sqnr`` in dB, of the output where it is least (``worst_output``, where there are several); ``quality`` and
    ``reference_quality`` (of float32) in [0, 1] are what ``measure`` names: accuracy, or what else the task measures
    quality by; ``warning`` is what the reader must know about the evidence, empty where there is nothing.
    """

    runtime: str
    data: str
    samples: int
    sqnr: float
    agreement: float | None
    quality: float | None
    reference_quality: float | None
    limits: Limits
    warning: str = ""
    worst_output: str = ""
    measure: str = DEFAULT.headline

    @property
    def failures(self) -> list[str]:
        """Every limit that was not kept, in words."""
        failures = []
        if not self.sqnr >= self.limits.sqnr:
            output = f" of output {self.worst_output}" if self.worst_output else ""
            ratio, least = distinct(self.sqnr, self.limits.sqnr)
            failures.append(f"SQNR{output} is {ratio} dB, at least {least} are required")
        if self.agreement is not None and self.agreement < self.limits.agreement:
            share, least = distinct(100 * self.agreement, 100 * self.limits.agreement)
            failures.append(f"agreement is {share}%, at least {least}% is required")
        if self.quality is not None and self.reference_quality is not None:
            lost = self.reference_quality - self.quality
            if lost > self.limits.accuracy_drop + 1e-9:
                points, most = distinct(100 * lost, 100 * self.limits.accuracy_drop)
                failures.append(
                    f"{self.measure} falls by {points} points, from {self.reference_quality:.1%} to "
                    f"{self.quality:.1%}, at most {most} may be lost"
                )
        return failures

    def check(self) -> None:
        """Raise VerificationError naming every limit that was not kept."""
        if self.failures:
            raise VerificationError(
                f"int8 in {self.runtime} is too far from float32: {'; '.join(self.failures)}. "
                f"On {self.samples} samples of {self.data}"
            )

    @property
    def short(self) -> dict[str, Any]:
        """What a file that stands for itself says of this."""
        return {"data": self.data, "agreement": self.agreement, "sqnr": self.to_dict()["sqnr"]}

    def __str__(self) -> str:
        limits = self.limits
        rows = [("SQNR", f"{self.sqnr:.1f} dB", f">= {limits.sqnr:g} dB")]
        if self.agreement is not None:
            rows.insert(0, ("agreement", f"{self.agreement:.2%}", f">= {limits.agreement:.2%}"))
        if self.quality is not None and self.reference_quality is not None:
            show = task_compared_by(self.measure).show
            rows += [
                (self.measure, show(self.quality), f"loses <= {100 * limits.accuracy_drop:g} points"),
                (f"{self.measure} in float32", show(self.reference_quality), ""),
            ]
        title = f"int8 verified in {self.runtime} on {self.samples} samples of {self.data}"
        return text_table(
            ("measure", "found", "limit"), rows, right=(1,), title=title, foot=[self.warning] if self.warning else []
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; an SQNR without any noise is ``None``."""
        return {**asdict(self), "sqnr": self.sqnr if abs(self.sqnr) < 1e9 else None}

    def to_json(self) -> str:
        """JSON text of ``to_dict``."""
        return json.dumps(self.to_dict(), indent=2)


def verify_int8(
    model: nn.Module,
    path: str | Path,
    *,
    data: Iterable[Any],
    what: str = "real data",
    runtime: str | None = None,
    limits: Limits = Limits(),  # frozen
    task: str | None = None,
    samples: int = SAMPLES,
) -> Fidelity:
    """Compare an int8 file with ``model`` in float32 in PyTorch; raise VerificationError unless it keeps the limits.

    ``data`` is an iterable of ``(inputs, target)`` batches, of which up to ``samples`` samples are used; ``what`` says
    in words what it is. Every output is held to the SQNR. Agreement is asked for where outputs are scores of classes,
    as ``task`` (a name in ``reconvene.tasks.TASKS``) says, or without it, where the targets are labels of them (one a
    sample, or one a pixel). Targets give the quality as well, where the task has a share for it.

    Raises also ModelError (the model or the file does not run) and DataError (no samples).
    """
    chosen = runtime_of(Path(path)) if runtime is None else runtime_named(runtime)
    with chosen.open(Path(path), 1) as session:
        result = fidelity(
            model, session, data, runtime=chosen.name, description=what, limits=limits, task=task, samples=samples
        )
    result.check()
    return result


def fidelity(
    model: nn.Module,
    session: Session,
    data: Iterable[Any],
    *,
    runtime: str,
    description: str = "real data",
    limits: Limits = Limits(),  # frozen
    task: str | None = None,
    samples: int = SAMPLES,
) -> Fidelity:
    """The same for a file that is open, without a verdict."""
    named = None if task is None else task_named(task)
    inputs, targets = labelled_samples(data, samples)
    pool = own_inputs(model, inputs)
    total = batch_size(pool)
    a, b = _outputs(model, session, pool, total)
    if [value.shape for value in a.values()] != [value.shape for value in b]:
        shapes = [[list(value.shape) for value in values] for values in (list(a.values()), b)]
        raise VerificationError(f"outputs are {shapes[0]} in PyTorch, {shapes[1]} in the int8 file")
    if any(not torch.isfinite(value).all() for value in b if value.is_floating_point()):
        raise VerificationError(f"an output of the int8 file is not finite in {runtime}")
    plain, targets = list(a.values()), None if targets is None else targets.cpu()
    judges = {name: judge(value, targets, named) for name, value in a.items()}
    witnesses = Witnesses()
    witnesses.see(judges, a)
    tasks = list(judges.values())
    same = [task.agreement(*pair) for task, *pair in zip(tasks, plain, b, strict=True) if task is not None]
    equal = [values.flatten() for values in same if values is not None]
    agreement = float(torch.cat(equal).double().mean()) if equal else None
    reference_quality, file_quality = (_quality(tasks, values, targets) for values in (plain, b))
    measure = next((task.headline for task in tasks if task is not None), DEFAULT.headline)
    ratio, worst = _least_sqnr(dict(zip(a, zip(plain, b, strict=True), strict=True)))
    return Fidelity(
        runtime=runtime,
        data=description,
        samples=total,
        sqnr=ratio,
        agreement=agreement,
        quality=file_quality,
        reference_quality=reference_quality,
        limits=limits,
        warning=witnesses.warning,
        worst_output=worst,
        measure=measure,
    )


def _least_sqnr(outputs: dict[str, tuple[Tensor, Tensor]]) -> tuple[float, str]:
    """The SQNR of the worst output and its name: boxes in pixels must not hide what became of scores below one.

    Outputs without any signal have no ratio; where none has one, it is that of all together.
    """
    ratios = {
        name: sqnr([plain], [noisy])
        for name, (plain, noisy) in outputs.items()
        if plain.is_floating_point() and bool(plain.any())
    }
    if len(ratios) < 2:
        return sqnr(*([pair[i] for pair in outputs.values()] for i in (0, 1))), ""
    worst = min(ratios, key=lambda name: ratios[name])
    return ratios[worst], worst


def _outputs(model: nn.Module, session: Session, pool: Any, total: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Outputs of PyTorch and of the file for every sample, in batches that the file takes."""
    size = _BATCH if session.batch is None else session.batch
    plain: list[dict[str, Tensor]] = []
    noisy: list[list[Tensor]] = []
    with in_inference(model):
        for start in track(range(0, total, size), "comparing with PyTorch", total=-(-total // size)):
            batch = take_samples(pool, start, size if session.batch is not None else min(size, total - start))
            plain.append({name: _rows(value.detach().cpu()) for name, value in outputs_of(model, batch).items()})
            noisy.append([_rows(value) for value in session.run(batch).values()])
    # a static batch is filled up with samples that were there already: they are left out again
    reference = {name: _first(torch.cat([row[name] for row in plain]), total) for name in plain[0]}
    return reference, [_first(torch.cat(parts), total) for parts in zip(*noisy, strict=True)]


def _rows(value: Tensor) -> Tensor:
    return value if value.ndim else value[None]


def _first(values: Tensor, count: int) -> Tensor:
    return values[:count] if values.ndim and len(values) > count else values


def _quality(tasks: Sequence[Task | None], outputs: Sequence[Tensor], targets: Tensor | None) -> float | None:
    """The share that the task measures quality by, of the first output that it can be measured of."""
    for task, output in zip(tasks, outputs, strict=True):
        quality = None if task is None or targets is None else task.quality(output, targets)
        if quality is not None:
            return quality
    return None
