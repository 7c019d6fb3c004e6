"""How well each evaluator ranks groups: Spearman's correlation with what training found, and its interval."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from reconvene.experiments import read_results

RESAMPLES = 4000


@dataclass(frozen=True)
class Verdict:
    """One evaluator on one model.

    ``rho``: correlation with the loss of accuracy, ``low`` and ``high`` its 95 % interval over groups; ``rho_loss``:
    correlation with the rise of test loss, which is less noisy. ``None``: it says the same of every group. ``asked``:
    seeds whose untrained networks it was asked about.
    """

    model: str
    name: str
    groups: int
    seeds: int
    rho: float | None
    low: float | None
    high: float | None
    rho_loss: float | None
    asked: int


def truth(
    results: Path, scores: Path, *, unfinished: bool = False
) -> dict[str, dict[int, dict[str, tuple[float, float]]]]:
    """Points of accuracy lost and rise of test loss, by model, seed and group; of seeds with all groups done.

    ``unfinished``: of the others instead.
    """
    found: dict[str, dict[int, dict[str, tuple[float, float]]]] = {}
    records = read_results(results)
    groups = {name(line): set(line["loss"]) for line in said_before(scores)}
    for model in dict.fromkeys(name(r["run"]) for r in records):
        own = [r for r in records if name(r["run"]) == model]
        dense = {r["run"]["seed"]: r for r in own if r["run"]["arm"] == "dense"}
        cuts = [r for r in own if r["run"]["arm"] == "cut" and r["run"]["seed"] in dense]
        for seed, whole in dense.items():
            lost = {
                r["run"]["options"]["group"]: (100 * (whole["accuracy"] - r["accuracy"]), r["loss"] - whole["loss"])
                for r in cuts
                if r["run"]["seed"] == seed
            }
            if lost and (set(lost) == groups.get(model)) != unfinished:
                found.setdefault(model, {})[seed] = lost
    return found


def verdicts(results: Path, scores: Path) -> list[Verdict]:
    """Every evaluator of every criterion, and what costs nothing to know: a group's place and its width."""
    lines = said_before(scores)
    out: list[Verdict] = []
    for model, by_seed in truth(results, scores).items():
        groups = list(next(iter(by_seed.values())))
        accuracy = np.mean([[by_seed[s][g][0] for g in groups] for s in by_seed], axis=0)
        loss = np.mean([[by_seed[s][g][1] for g in groups] for s in by_seed], axis=0)
        said: dict[str, list[list[float]]] = {}
        for line in lines:
            if line["evaluator"] == "fan_in" and line["criterion"] != "synflow":
                continue  # it asks no criterion
            if name(line) == model and line["seed"] in by_seed:
                known = said.setdefault(f"{line['evaluator']} of {line['criterion']}", [])
                known.append([line["loss"][g] for g in groups])
        guesses = {what: np.mean(values, axis=0) for what, values in said.items()}
        guesses["nearer to the input"] = -np.arange(len(groups), dtype=float)
        for what, guess in guesses.items():
            low, high = interval(guess, accuracy)
            asked = len(said.get(what, by_seed))
            told = rho(guess, accuracy), low, high, rho(guess, loss), asked
            out.append(Verdict(model, what, len(groups), len(by_seed), *told))
    return sorted(out, key=lambda v: (v.model, -(v.rho if v.rho is not None else -2)))


def agreement(results: Path, scores: Path) -> dict[str, tuple[float, float]]:
    """How well what one seed found agrees with what another did, and the best that can be expected, by model.

    The first is Spearman's correlation over groups of accuracy lost, mean over pairs of seeds. The second what one who
    knew the mean over all seeds would have with the mean over these: the root of their reliability (Spearman, Brown).
    """
    found = {}
    for model, by_seed in truth(results, scores).items():
        groups = list(next(iter(by_seed.values())))
        lost = [np.array([seed[group][0] for group in groups]) for seed in by_seed.values()]
        values = [rho(one, other) or 0.0 for one, other in combinations(lost, 2)]
        if values:
            between, seeds = max(0.0, float(np.mean(values))), len(lost)
            found[model] = (between, float(np.sqrt(seeds * between / (1 + (seeds - 1) * between))))
    return found


def said_before(scores: Path) -> list[dict[str, Any]]:
    """What the evaluators said: one line an evaluator, criterion, model and seed."""
    return [json.loads(line) for line in scores.read_text().splitlines()] if scores.exists() else []


def rho(guess: np.ndarray, found: np.ndarray) -> float | None:
    """Spearman's rank correlation; ``None`` where one side says the same of all."""
    a, b = rankdata(guess), rankdata(found)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def interval(guess: np.ndarray, found: np.ndarray) -> tuple[float | None, float | None]:
    """Between the 2.5 and 97.5 % quantiles over resampled groups (bootstrap)."""
    if rho(guess, found) is None:
        return None, None
    rng = np.random.Generator(np.random.PCG64(0))
    draws = rng.integers(len(guess), size=(RESAMPLES, len(guess)))
    a, b = (rankdata(values[draws], axis=1) for values in (guess, found))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    known = scale > 0
    low, high = np.quantile((a * b).sum(axis=1)[known] / scale[known], (0.025, 0.975))
    return float(low), float(high)


def name(run: dict[str, Any]) -> str:
    """The model of a run or of a line of scores."""
    width = run["args"].get("width")
    return f"{run['model']}, width {width}" if width is not None else str(run["model"])
