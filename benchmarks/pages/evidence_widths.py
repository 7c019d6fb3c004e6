"""The evidence page's second and third question: whether widths win, and whether rectification earns its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from pages.evidence_predict import DEFAULT, NOTHING
from reconvene.experiments.config import arm_label
from reconvene.experiments.pages import escaped_table, plots
from reconvene.experiments.summary import ArmSummary, Mean, cells, header_of, summarise

Records = list[dict[str, Any]]
NOISE = 1.0
"""Points of accuracy below which a difference of means counts for nothing here."""
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
            + escaped_table(["budget", *header_of(own)], [[line.budget, *cells(line)] for line in own])
        )
        for plot, text in plots(own).items():
            file = f"widths-{plot}"
            made[file] = text
            parts.append(f"![Accuracy of every arm: {plot.removesuffix('.svg')}](plots/{file})")
    return "\n\n".join(parts)


def against(records: Records) -> str:
    """Paired differences: ours minus each other arm, seed by seed."""
    lines = summarise(records)
    rows, readings = [], []
    for own in (line for line in lines if line.label == "ours"):
        others = [x for x in lines if (x.model, x.data) == (own.model, own.data) and x.budget in (own.budget, "whole")]
        for other in others:
            if other is own:
                continue
            if pairs := paired(own, other):
                reading = _verdict(pairs)
                rows.append([own.model, own.budget, other.label, _signed(Mean.of(pairs)), str(len(pairs)), reading])
                readings += [reading] if len(pairs) > 1 else []
    if not rows:
        return NOTHING
    different = sum(reading in ("better", "worse") for reading in readings)
    chance = (
        f"Of {len(readings)} comparisons with more than one seed {different} read *better* or *worse*; if no two arms "
        f"differed, about {0.05 * len(readings):.0f} would do so by chance, since the intervals are not widened for "
        "their number."
    )
    return escaped_table(["model", "budget", "ours minus", "points", "seeds", "reading"], rows) + f"\n\n{chance}"


def everywhere(records: Records) -> str:
    """How far every quick way to choose widths is below the best of them, under every budget that all have."""
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for line in summarise(records):
        if line.label in QUICK:
            cells.setdefault((line.model, line.budget), {})[line.label] = line.score.value
    whole = {place: own for place, own in cells.items() if len(own) == len(QUICK)}
    if not whole:
        return NOTHING
    below = {arm: [own[arm] - max(own.values()) for own in whole.values()] for arm in QUICK}
    rows = [
        [arm, *(f"{gap:.1f}" for gap in gaps), f"{min(gaps):.1f}"]
        for arm, gaps in sorted(below.items(), key=lambda item: -min(item[1]))
    ]
    return escaped_table(["arm", *(f"{model}, {budget}" for model, budget in whole), "worst"], rows)


def measured(records: Records) -> str:
    """Ours against the others at ours' measured latency, between the points that each of them has."""
    timed = [line for line in summarise(records) if line.latency]
    lines = [line for line in timed if "latency" in line.budget or line.label == "dense"]
    rows = []
    for model in dict.fromkeys(line.model for line in lines if line.label == "ours"):
        own = [line for line in lines if line.model == model]
        for arm in QUICK[1:]:
            points = sorted((line.latency, line.score.value) for line in own if line.label in (arm, "dense"))
            for line in (line for line in own if line.label == "ours"):
                if points[0][0] <= line.latency <= points[-1][0]:
                    other = np.interp(np.log(line.latency), *np.array([(np.log(x), y) for x, y in points]).T)
                    gap = f"{line.score.value - other:+.1f}"
                    rows.append([model, line.budget, f"{line.latency * 1e3:.3f}", arm, gap])
    header = ["model", "budget of ours", "measured ms", "arm", "ours minus that arm at as many ms"]
    return escaped_table(header, rows) if rows else NOTHING


def of_rlr(records: Records) -> str:
    """The four initializations."""
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
            rows.append([line.model, line.budget, way, str(first), line.score_text, str(line.score.n)])
    return escaped_table(["model", "budget", "rectify", "after one epoch %", "accuracy %", "seeds"], rows)


def of_rate(records: Records) -> str:
    """The same arms at several learning rates; the best of each arm is bold."""
    cells: dict[tuple[str, str], dict[float, ArmSummary]] = {}
    for line in summarise(records):
        run = line.records[0]["run"]
        arm = arm_label(run["arm"], run["options"])
        cells.setdefault((line.model, arm), {})[run["train"]["lr"]] = line
    if not cells:
        return NOTHING
    rates = sorted({rate for found in cells.values() for rate in found})
    best = {place: max(found, key=lambda rate: found[rate].score.value) for place, found in cells.items()}
    rows = []
    for place, found in cells.items():
        means = {rate: line.score_text for rate, line in found.items()}
        means[best[place]] = f"**{means[best[place]]}**"
        rows.append([*place, *(means.get(rate, "") for rate in rates)])
    against = []
    for (model, arm), found in cells.items():
        if arm != "ours" and (model, "ours") in cells:
            pairs = paired(cells[model, "ours"][best[model, "ours"]], found[best[model, arm]])
            against.append([model, arm, _signed(Mean.of(pairs)), str(len(pairs)), _verdict(pairs)])
    header = ["model", "ours minus", "points, each at its best rate", "seeds", "reading"]
    table = escaped_table(["model", "arm", *(f"rate {rate:g}" for rate in rates)], rows)
    return f"{table}\n\n{escaped_table(header, against)}" if against else table


def paired(one: ArmSummary, other: ArmSummary) -> list[float]:
    """Points of accuracy by which one is above the other, seed by seed."""
    by_seed = {r["run"]["seed"]: r["accuracy"] for r in other.records}
    return [100 * (r["accuracy"] - by_seed[s]) for r in one.records if (s := r["run"]["seed"]) in by_seed]


def _signed(mean: Mean) -> str:
    spread = f" ± {mean.spread:.1f}" if mean.spread is not None else ""
    return f"{mean.value:+.1f}{spread}"


def _verdict(pairs: Sequence[float]) -> str:
    """In words; ``better`` and ``worse`` alone only where a paired t interval of 95 % leaves out zero."""
    middle, count = sum(pairs) / len(pairs), len(pairs)
    if not any(pairs):
        return "the same"
    if abs(middle) < NOISE:
        return "within a point"
    if min(pairs) * max(pairs) <= 0:
        return "seeds disagree"
    word = "better" if middle > 0 else "worse"
    if count == 1:
        return f"{word}, one seed"
    half = t.ppf(0.975, count - 1) * np.std(pairs, ddof=1) / count**0.5
    return word if abs(middle) > half else f"{word} on every seed"
