"""The evidence page's second and third question: whether widths win, and whether rectification earns its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from evidence_predict import DEFAULT, NOTHING

from reconvene.experiments.config import arm_label
from reconvene.experiments.pages import grid, plots
from reconvene.experiments.summary import HEADER, Mean, cells, summarise

Records = list[dict[str, Any]]
NOISE = 1.0
"""Points of accuracy below which a difference of means over three seeds counts for nothing here."""
QUICK = ("ours", "uniform", "precrop", "precrop_filled", "channels", "random")
"""Ways to choose widths that train nothing."""


def tables(records: Records, made: dict[str, str]) -> str:
    """Every arm under every budget; adds its plots."""
    lines = summarise(records)
    if not lines:
        return NOTHING
    parts = []
    for place in dict.fromkeys((line.model, line.data) for line in lines):
        own = [line for line in lines if (line.model, line.data) == place]
        parts.append(
            f"**{place[0]} on {place[1]}**\n\n"
            + grid(["budget", *HEADER], [[line.budget, *cells(line)] for line in own])
        )
        for plot, text in plots(own).items():
            file = f"widths-{plot}"
            made[file] = text
            parts.append(f"![Accuracy of every arm: {plot.removesuffix('.svg')}](plots/{file})")
    return "\n\n".join(parts)


def against(records: Records) -> str:
    """Paired differences: ours minus each other arm, seed by seed."""
    lines = summarise(records)
    rows = []
    for own in (line for line in lines if line.label == "ours"):
        others = [x for x in lines if (x.model, x.data) == (own.model, own.data) and x.budget in (own.budget, "whole")]
        for other in others:
            if other is own:
                continue
            by_seed = {r["run"]["seed"]: r["accuracy"] for r in other.records}
            pairs = [100 * (r["accuracy"] - by_seed[s]) for r in own.records if (s := r["run"]["seed"]) in by_seed]
            if pairs:
                rows.append(
                    [own.model, own.budget, other.label, _signed(Mean.of(pairs)), str(len(pairs)), _verdict(pairs)]
                )
    if not rows:
        return NOTHING
    return grid(["model", "budget", "ours minus", "points", "seeds", "reading"], rows)


def everywhere(records: Records) -> str:
    """How far every quick way to choose widths is below the best of them, under every budget that all have."""
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for line in summarise(records):
        if line.label in QUICK:
            cells.setdefault((line.model, line.budget), {})[line.label] = line.accuracy.value
    whole = {place: own for place, own in cells.items() if len(own) == len(QUICK)}
    if not whole:
        return NOTHING
    below = {arm: [own[arm] - max(own.values()) for own in whole.values()] for arm in QUICK}
    rows = [
        [arm, *(f"{gap:.1f}" for gap in gaps), f"{min(gaps):.1f}"]
        for arm, gaps in sorted(below.items(), key=lambda item: -min(item[1]))
    ]
    return grid(["arm", *(f"{model}, {budget}" for model, budget in whole), "worst"], rows)


def measured(records: Records) -> str:
    """Ours against the others at ours' measured latency, between the points that each of them has."""
    timed = [line for line in summarise(records) if line.latency]
    lines = [line for line in timed if "latency" in line.budget or line.label == "dense"]
    rows = []
    for model in dict.fromkeys(line.model for line in lines if line.label == "ours"):
        own = [line for line in lines if line.model == model]
        for arm in QUICK[1:]:
            points = sorted((line.latency, line.accuracy.value) for line in own if line.label in (arm, "dense"))
            for line in (line for line in own if line.label == "ours"):
                if points[0][0] <= line.latency <= points[-1][0]:
                    other = np.interp(np.log(line.latency), *np.array([(np.log(x), y) for x, y in points]).T)
                    gap = f"{line.accuracy.value - other:+.1f}"
                    rows.append([model, line.budget, f"{line.latency * 1e3:.3f}", arm, gap])
    header = ["model", "budget of ours", "measured ms", "arm", "ours minus that arm at as many ms"]
    return grid(header, rows) if rows else NOTHING


def of_rlr(records: Records) -> str:
    """The four initialisations."""
    ours = [r for r in records if r["run"]["arm"] == "ours"]
    # The widths experiment holds the same runs with `reinit`; what matters is that all else is equal.
    lines = summarise(ours)
    ways = {(r["run"]["options"]["rectify"]) for r in ours}
    if len(ways) < 2:
        return NOTHING
    rows = []
    for line in lines:
        way = line.records[0]["run"]["options"]["rectify"]
        if line.records[0]["run"]["options"]["evaluator"] == DEFAULT[1]:
            first = Mean.of([100 * r["curve"][0] for r in line.records])
            rows.append([line.model, line.budget, way, str(first), str(line.accuracy), str(line.accuracy.n)])
    return grid(["model", "budget", "rectify", "after one epoch %", "accuracy %", "seeds"], rows)


def of_rate(records: Records) -> str:
    """The same arms at several learning rates; the best of each arm is bold."""
    cells: dict[tuple[str, str], dict[float, Mean]] = {}
    for line in summarise(records):
        run = line.records[0]["run"]
        arm = arm_label(run["arm"], run["options"])
        cells.setdefault((line.model, arm), {})[run["train"]["lr"]] = line.accuracy
    if not cells:
        return NOTHING
    rates = sorted({rate for found in cells.values() for rate in found})
    best = {place: max(found, key=lambda rate: found[rate].value) for place, found in cells.items()}
    rows = []
    for place, found in cells.items():
        texts = {rate: f"**{mean}**" if rate == best[place] else str(mean) for rate, mean in found.items()}
        rows.append([*place, *(texts.get(rate, "") for rate in rates)])
    ours = {model: found[best[model, arm]] for (model, arm), found in cells.items() if arm == "ours"}
    said = [
        f"{ours[model].value - found[best[model, arm]].value:+.1f} above `{arm}` on {model}"
        for (model, arm), found in cells.items()
        if arm != "ours" and model in ours
    ]
    table = grid(["model", "arm", *(f"rate {rate:g}" for rate in rates)], rows)
    return f"{table}\n\nEach at its own best rate, `ours` is {', '.join(said)}."


def _signed(mean: Mean) -> str:
    spread = f" ± {mean.spread:.1f}" if mean.spread is not None else ""
    return f"{mean.value:+.1f}{spread}"


def _verdict(pairs: Sequence[float]) -> str:
    middle = sum(pairs) / len(pairs)
    if abs(middle) < NOISE:
        return "level"
    if len(pairs) > 1 and min(pairs) * max(pairs) <= 0:
        return "seeds disagree"
    return ("better" if middle > 0 else "worse") + ("" if len(pairs) > 1 else ", one seed")
