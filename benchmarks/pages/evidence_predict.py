"""The evidence page's first question: how well evaluators rank groups, as tables and plots."""

from __future__ import annotations

from pathlib import Path

from pages.evaluator_ranks import Verdict, agreement, name, said_before, truth, verdicts
from reconvene.experiments.pages import escaped_table
from reconvene.experiments.plot import Dot, scatter_svg

DEFAULT = ("synflow", "fan_in")
"""Criterion and evaluator of a budget, unless told otherwise."""
NOTHING = "*Not measured yet.*"


def prediction(predict: Path, scores: Path, plots: dict[str, str]) -> str:
    """How every evaluator ranks groups; adds its plots."""
    found = verdicts(predict, scores)
    if not found:
        return NOTHING + _unfinished(predict, scores)
    rows = [[v.model, v.name, _number(v.rho), _between(v), _number(v.rho_loss), _asked(v)] for v in found]
    header = ["model", "said by", "Spearman's ρ", "95 % interval", "ρ with test loss", "groups x seeds"]
    parts = [
        escaped_table(header, rows),
        *(_plot(model, predict, scores, plots) for model in dict.fromkeys(v.model for v in found)),
    ]
    best: dict[str, Verdict] = {}
    for v in found:
        best.setdefault(v.model, v)
    own = {v.model: v for v in found if v.name == "fan_in of synflow"}
    said = [
        f"On {model} the best is {v.name} ({_number(v.rho)}); the default, fan_in of synflow, has "
        f"{_number(own[model].rho)}."
        for model, v in best.items()
        if model in own
    ]
    said += [
        f"What two seeds find on {model} correlates with each other by {between:.2f}: one who knew the truth "
        f"would be expected at {best:.2f} here."
        for model, (between, best) in agreement(predict, scores).items()
    ]
    return "\n\n".join([*parts, " ".join(said)]) + _unfinished(predict, scores)


def _unfinished(predict: Path, scores: Path) -> str:
    """Seeds of which some groups are still to be trained: what is known, without a verdict."""
    parts = []
    for model, by_seed in truth(predict, scores, unfinished=True).items():
        for seed, lost in by_seed.items():
            said = {
                line["evaluator"]: line["loss"]
                for line in said_before(scores)
                if (name(line), line["seed"], line["criterion"]) == (model, seed, DEFAULT[0])
            }
            asked = ("fan_in", "density")
            rows = [
                [
                    f"`{group}`",
                    f"{points:+.1f}",
                    f"{rise:+.3f}",
                    *(f"{said[e][group]:.1f}" for e in asked if e in said),
                ]
                for group, (points, rise) in lost.items()
            ]
            header = ["group", "points lost", "rise of test loss", *(f"{e} of synflow" for e in asked if e in said)]
            whole = len(next(iter(said.values()), lost))
            what = f"**{model}, seed {seed}: {len(lost)} of {whole} groups are trained, too few for a verdict.**"
            parts.append(f"\n\n{what}\n\n{escaped_table(header, rows)}")
    return "".join(parts)


def _plot(model: str, predict: Path, scores: Path, plots: dict[str, str]) -> str:
    by_seed = truth(predict, scores)[model]
    lines = said_before(scores)
    dots = []
    for line in lines:
        if name(line) == model and line["seed"] in by_seed and (line["criterion"], line["evaluator"]) == DEFAULT:
            for group, (lost, _) in by_seed[line["seed"]].items():
                text = f"{group}, seed {line['seed']}: {lost:.1f} points"
                dots.append(Dot(max(line["loss"][group], 1e-3), lost, f"seed {line['seed']}", text))
    file = _file(f"predict-{model}")
    plots[file] = scatter_svg(
        f"{model}: one group cut to an eighth",
        dots,
        x="loss foreseen (fan_in of synflow)",
        y="points of accuracy lost",
        joined=(),
    )
    return f"![Foreseen and found loss of every group of {model}](plots/{file})"


def _file(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text) + ".svg"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _asked(v: Verdict) -> str:
    return f"{v.groups} x {v.seeds}" + (f", asked on {v.asked}" if v.asked < v.seeds else "")


def _between(v: Verdict) -> str:
    return "–" if v.low is None or v.high is None else f"{v.low:.2f} to {v.high:.2f}"
