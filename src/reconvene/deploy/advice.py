"""What to try when an int8 file does not keep its limits: layers in float32, each tried in the runtime first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reconvene.deploy.fidelity import Fidelity

TRIALS = 6
"""Layers that are tried alone, those that hurt most in PyTorch first: each takes one more quantisation."""

Trial = Callable[[tuple[str, ...]], Fidelity | None]
"""The file with these layers in float32, compared; ``None`` where the runtime cannot have it so."""


@dataclass(frozen=True)
class Remedy:
    """Layers to leave in float32 besides those that are already, and what the file then is, measured."""

    layers: tuple[str, ...]
    result: Fidelity


def remedy(measured: Fidelity, candidates: Sequence[str], trial: Trial) -> tuple[list[Remedy], Remedy | None]:
    """Every layer that helps alone, the best first, and the smallest set found that keeps the limits, or else the best.

    ``candidates`` are layers in the order in which they are likely to hurt. A layer that adds noise, or takes
    the file further from any limit, is never named; ``None`` where nothing that was tried is better.
    """
    alone = []
    for layer in candidates[:TRIALS]:
        result = trial((layer,))
        if result is not None and _is_better(result, measured):
            alone.append(Remedy((layer,), result))
    alone.sort(key=lambda single: _quality(single.result), reverse=True)
    best = alone[0] if alone else None
    count = 2
    while best is not None and best.result.failures and count <= len(alone):
        layers = tuple(layer for single in alone[:count] for layer in single.layers)
        result = trial(layers)
        if result is not None and _is_better(result, best.result):
            best = Remedy(layers, result)
        count = count * 2 if count * 2 <= len(alone) or count == len(alone) else len(alone)
    return alone, best


def advice(alone: Sequence[Remedy], best: Remedy | None, keep_fp32: Sequence[str], tried: Sequence[str]) -> str:
    """Word the remedies for the error message."""
    if best is None:
        if not tried:
            return "Every layer is in float32 already: look at the data, or loosen the limits"
        return (
            f"No layer left in float32 brings it closer in the runtime (tried: {', '.join(tried)}). Calibrate on more "
            "data, train quantisation-aware, or loosen the limits"
        )
    first = alone[0]
    runners_up = ", ".join(f"{single.layers[0]} {single.result.sqnr:.1f} dB" for single in alone[1:3]) or "none"
    exempt = [*keep_fp32, *best.layers]
    verdict = "keeps the limits" if not best.result.failures else "still does not keep the limits"
    return (
        f"The layer that hurts most is {first.layers[0]}: in float32 it leaves {first.result.sqnr:.1f} dB "
        f"(next: {runners_up}). Leave it in float32 with keep_fp32={exempt} "
        f"(--keep-fp32 {','.join(exempt)}), which was tried and {verdict}: "
        f"{best.result.sqnr:.1f} dB{_share(best.result)}; or loosen the limits"
    )


def _quality(result: Fidelity) -> tuple[bool, float, float]:
    return not result.failures, result.sqnr, result.agreement or 0.0


def _is_better(result: Fidelity, before: Fidelity) -> bool:
    """Less noise, and no limit further away; a share that stays above its limit may move by a sample or two."""
    closer = all(now <= earlier for now, earlier in zip(_shortfalls(result), _shortfalls(before), strict=True))
    return closer and result.sqnr > before.sqnr


def _shortfalls(result: Fidelity) -> tuple[float, float, float]:
    """By how much each limit is missed; 0 where it is kept, or where nothing is known."""
    lost = 0.0
    if result.quality is not None and result.reference_quality is not None:
        lost = result.reference_quality - result.quality
    limits = result.limits
    agreement = limits.agreement if result.agreement is None else result.agreement
    return (
        max(0.0, limits.sqnr - result.sqnr),
        max(0.0, limits.agreement - agreement),
        max(0.0, lost - limits.accuracy_drop),
    )


def _share(result: Fidelity) -> str:
    return "" if result.agreement is None else f", agreement {result.agreement:.1%}"
