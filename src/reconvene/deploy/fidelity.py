"""Whether an int8 file is still the same network: accuracy, top-1 agreement and SQNR on real data, all three."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.deploy.calling import batch_size, evaluating, labelled_samples, outputs_of, own_inputs, take
from reconvene.deploy.layerwise import sqnr
from reconvene.deploy.registry import runtime_named, runtime_of
from reconvene.deploy.runtime import Session
from reconvene.errors import ModelError, VerificationError
from reconvene.text import table

BATCH = 32
SAMPLES = 512


@dataclass(frozen=True)
class Limits:
    """What an int8 file must keep beside its float32 network in PyTorch, on the same samples."""

    agreement: float = 0.95
    """Least share of samples (pixels, in a dense prediction) with the same most likely class."""
    sqnr: float = 10.0
    """Least signal to quantisation noise of the outputs, in dB: at 10 dB noise has a tenth of the signal's power."""
    accuracy_drop: float = 0.02
    """Most accuracy that may be lost, in [0, 1]: 0.02 is two points."""

    def __post_init__(self) -> None:
        if not (0 <= self.agreement <= 1 and 0 <= self.accuracy_drop <= 1):
            raise ModelError(f"agreement={self.agreement} and accuracy_drop={self.accuracy_drop} must be in [0, 1]")


@dataclass(frozen=True)
class Fidelity:
    """How an int8 file compares with float32 in PyTorch. ``None``: no classes in the output, or no labels in the data.

    ``sqnr`` in dB; ``accuracy`` and ``reference_accuracy`` (of float32) in [0, 1].
    """

    runtime: str
    data: str
    samples: int
    sqnr: float
    agreement: float | None
    accuracy: float | None
    reference_accuracy: float | None
    limits: Limits

    @property
    def failures(self) -> list[str]:
        """Every limit that was not kept, in words."""
        found = []
        if not self.sqnr >= self.limits.sqnr:
            found.append(f"SQNR is {self.sqnr:.1f} dB, at least {self.limits.sqnr:g} are required")
        if self.agreement is not None and self.agreement < self.limits.agreement:
            found.append(f"top-1 agreement is {self.agreement:.1%}, at least {self.limits.agreement:.1%} is required")
        if self.accuracy is not None and self.reference_accuracy is not None:
            lost = self.reference_accuracy - self.accuracy
            if lost > self.limits.accuracy_drop + 1e-9:
                found.append(
                    f"accuracy falls from {self.reference_accuracy:.1%} to {self.accuracy:.1%}, "
                    f"at most {100 * self.limits.accuracy_drop:g} points may be lost"
                )
        return found

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

    @property
    def warning(self) -> str:
        """Nothing to warn of: the same name as in a Verification."""
        return ""

    def __str__(self) -> str:
        def share(value: float | None) -> str:
            return "-" if value is None else f"{value:.2%}"

        limits = self.limits
        rows = [
            ("top-1 agreement", share(self.agreement), f">= {limits.agreement:.2%}"),
            ("SQNR", f"{self.sqnr:.1f} dB", f">= {limits.sqnr:g} dB"),
            ("accuracy", share(self.accuracy), f"loses <= {100 * limits.accuracy_drop:g} points"),
            ("accuracy in float32", share(self.reference_accuracy), ""),
        ]
        title = f"int8 verified in {self.runtime} on {self.samples} samples of {self.data}"
        return table(("measure", "found", "limit"), rows, right=(1,), title=title)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; an SQNR without any noise is ``None``."""
        return {**asdict(self), "sqnr": self.sqnr if abs(self.sqnr) < 1e9 else None, "warning": self.warning}

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
    samples: int = SAMPLES,
) -> Fidelity:
    """Compare an int8 file with ``model`` in float32 in PyTorch; raise VerificationError unless it keeps the limits.

    ``data`` is an iterable of ``(inputs, target)`` batches, of which up to ``samples`` samples are used; ``what`` says
    in words what it is. Targets that are classes (one a sample, or one a pixel) give the accuracies.

    Raises also ModelError (the model or the file does not run) and DataError (no samples).
    """
    chosen = runtime_of(Path(path)) if runtime is None else runtime_named(runtime)
    with chosen.open(Path(path), 1) as session:
        found = fidelity(model, session, data, runtime=chosen.name, what=what, limits=limits, samples=samples)
    found.check()
    return found


def fidelity(
    model: nn.Module,
    session: Session,
    data: Iterable[Any],
    *,
    runtime: str,
    what: str = "real data",
    limits: Limits = Limits(),  # frozen
    samples: int = SAMPLES,
) -> Fidelity:
    """The same for a file that is open, without a verdict."""
    given, targets = labelled_samples(data, samples)
    pool = own_inputs(model, given)
    total = batch_size(pool)
    plain: list[list[Tensor]] = []
    noisy: list[list[Tensor]] = []
    with evaluating(model):
        for start in range(0, total, BATCH):
            batch = take(pool, start, min(BATCH, total - start))
            plain.append([value.detach().cpu() for value in outputs_of(model, batch).values()])
            noisy.append(list(session.run(batch).values()))
    a, b = ([torch.cat(parts) for parts in zip(*rows, strict=True)] for rows in (plain, noisy))
    if [value.shape for value in a] != [value.shape for value in b]:
        shapes = [[list(value.shape) for value in values] for values in (a, b)]
        raise VerificationError(f"outputs are {shapes[0]} in PyTorch, {shapes[1]} in the int8 file")
    if any(not torch.isfinite(value).all() for value in b if value.is_floating_point()):
        raise VerificationError(f"an output of the int8 file is not finite in {runtime}")
    classes = [(x, y) for x, y in zip(a, b, strict=True) if x.is_floating_point() and x.ndim > 1 and x.shape[1] > 1]
    same = [x.argmax(1) == y.argmax(1) for x, y in classes]
    accuracy = [_accuracy(values[0], targets) if values else None for values in zip(*classes, strict=True)] or [
        None
    ] * 2
    agreement = float(torch.cat([rows.flatten() for rows in same]).double().mean()) if same else None
    return Fidelity(runtime, what, total, sqnr(a, b), agreement, accuracy[1], accuracy[0], limits)


def _accuracy(output: Tensor, targets: Tensor | None) -> float | None:
    """Share of right answers of the first output with classes; ``None`` without labels that fit it."""
    found = output.argmax(1)
    if targets is None or targets.is_floating_point() or targets.shape != found.shape:
        return None
    return float((found == targets.cpu()).double().mean())
