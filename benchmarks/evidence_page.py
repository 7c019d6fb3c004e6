"""docs/evidence.md and its plots, from the results on disk: every number and every verdict comes from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from headline import HEADER as COLUMNS
from headline import row
from predict_table import Verdict, agreement, name, said_before, truth, verdicts

from reconvene.experiments import read_results
from reconvene.experiments.config import arm_label
from reconvene.experiments.pages import grid, plots
from reconvene.experiments.plot import Dot, scatter
from reconvene.experiments.summary import EXTRA, HEADER, Mean, budget_text, cells, summarise

HERE = Path(__file__).parent
NOISE = 1.0
"""Points of accuracy below which a difference of means over three seeds counts for nothing here."""


def write_page(results: Path, page: Path, *, tier: str, check: bool = False) -> bool:
    """Write the page and the plots beside it, or say whether what is there is what would be written."""
    found = Found(results, tier)
    texts = {page.name: found.page(), **{f"plots/{name}": text for name, text in found.plots.items()}}
    current = all((page.parent / name).is_file() for name in texts) and all(
        (page.parent / name).read_text(encoding="utf-8") == text for name, text in texts.items()
    )
    if check:
        return current
    for file, text in texts.items():
        (page.parent / file).parent.mkdir(parents=True, exist_ok=True)
        (page.parent / file).write_text(text, encoding="utf-8")
    return True


class Found:
    """All results of a tier, and the page they make."""

    def __init__(self, results: Path, tier: str) -> None:
        self.results, self.tier = results, tier
        self.plots: dict[str, str] = {}
        quick = tier == "quick"
        suffix = "_quick" if quick else ""
        self.predict = results / f"predict{suffix}.jsonl"
        self.scores = results / f"predict_scores{suffix}.jsonl"
        files = ("quick",) if quick else ("widths", "variants", "seconds", "residual")
        self.widths = [record for file in files for record in read_results(results / f"{file}.jsonl")]
        self.rlr = read_results(results / ("quick.jsonl" if quick else "rlr.jsonl"))
        self.rate = read_results(results / "rate.jsonl")
        self.headlines = {
            name: read_results(results / f"headline_{name}.jsonl") for name in ("small", "full", "full_64")
        }

    def page(self) -> str:
        """The page as Markdown."""
        text = (HERE / "evidence.md.in").read_text(encoding="utf-8")
        makers: dict[str, Callable[[], str]] = {
            "PROTOCOL": self.protocol,
            "PREDICT": self.prediction,
            "WIDTHS": self.of_widths,
            "AGAINST": self.against,
            "EVERYWHERE": self.everywhere,
            "MEASURED": self.measured,
            "RLR": self.of_rlr,
            "RATE": self.of_rate,
            "HEADLINE": self.headline,
            "MOONSHOT": self.moonshot,
            "BEYOND": self.beyond,
            "EXPLORED": self.explored,
            "MISSING": self.missing,
        }
        for mark, make in makers.items():
            text = text.replace(f"@{mark}@", make())
        left = re.findall(r"@[A-Z]+@", text)
        assert not left, f"the template asks for {left}"
        return text

    def every(self) -> list[dict[str, Any]]:
        """All records, each run once."""
        parts = [read_results(self.predict), self.widths, self.rlr, self.rate, *self.headlines.values()]
        return list({record["key"]: record for part in parts for record in part}.values())

    def protocol(self) -> str:
        """What was run, where, when and how long it took."""
        records = self.every()
        if not records:
            return "Nothing has been run yet."
        rows = []
        for place in dict.fromkeys(_place(record) for record in records):
            own = [record for record in records if _place(record) == place]
            dense = [record["accuracy"] for record in own if record["run"]["arm"] == "dense"]
            known = f"{100 * sum(dense) / len(dense):.1f}" if dense else ""
            seeds = len({record["run"]["seed"] for record in own})
            hours = [f"{seconds / 3600:.1f} h" for seconds in (sum(r["seconds"] for r in own), undisturbed(own))]
            rows.append([*place, str(seeds), str(len(own)), known, *hours])
        machines = dict.fromkeys(
            f"{r['machine'].get('accelerator', r['machine']['processor'])}, {r['threads']} threads" for r in records
        )
        versions = dict.fromkeys(f"torch {record['libraries']['torch']}" for record in records)
        commits = dict.fromkeys(str(record["commit"]) for record in records)
        dates = sorted(record["date"][:10] for record in records)
        header = ["model", "data", "images", "epochs", "seeds", "runs", "dense accuracy %", "took", "fastest seeds"]
        took = (
            f"All of it took {sum(r['seconds'] for r in records) / 3600:.1f} h of one core, often with other work "
            "beside it; had every seed been as fast as the fastest seed of the same run, "
            f"{undisturbed(records) / 3600:.1f} h. Two experiments at once, as `make evidence` runs them, halve that."
        )
        ran = (
            f"Run on {'; '.join(machines)}, {', '.join(versions)}, "
            f"commits {', '.join(f'`{commit}`' for commit in commits)}, "
            + (f"on {dates[0]}." if dates[0] == dates[-1] else f"from {dates[0]} to {dates[-1]}.")
        )
        return "\n\n".join([grid(header, rows), took, ran])

    def prediction(self) -> str:
        """How every evaluator ranks groups."""
        found = verdicts(self.predict, self.scores)
        if not found:
            return "*Not measured yet.*" + self._unfinished()
        rows = [
            [v.model, v.name, _number(v.rho), _between(v), _number(v.rho_loss), f"{v.groups} x {v.seeds}"]
            for v in found
        ]
        header = ["model", "said by", "Spearman's ρ", "95 % interval", "ρ with test loss", "groups x seeds"]
        parts = [grid(header, rows), *(self._prediction_plot(model) for model in dict.fromkeys(v.model for v in found))]
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
            for model, (between, best) in agreement(self.predict, self.scores).items()
        ]
        return "\n\n".join([*parts, " ".join(said)]) + self._unfinished()

    def _unfinished(self) -> str:
        """Seeds of which some groups are still to be trained: what is known, without a verdict."""
        parts = []
        for model, by_seed in truth(self.predict, self.scores, unfinished=True).items():
            for seed, lost in by_seed.items():
                said = {
                    line["evaluator"]: line["loss"]
                    for line in said_before(self.scores)
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
                parts.append(f"\n\n{what}\n\n{grid(header, rows)}")
        return "".join(parts)

    def _prediction_plot(self, model: str) -> str:
        by_seed = truth(self.predict, self.scores)[model]
        lines = said_before(self.scores)
        dots = []
        for line in lines:
            if name(line) == model and line["seed"] in by_seed and (line["criterion"], line["evaluator"]) == DEFAULT:
                for group, (lost, _) in by_seed[line["seed"]].items():
                    text = f"{group}, seed {line['seed']}: {lost:.1f} points"
                    dots.append(Dot(max(line["loss"][group], 1e-3), lost, f"seed {line['seed']}", text))
        file = _file(f"predict-{model}")
        self.plots[file] = scatter(
            f"{model}: one group cut to an eighth",
            dots,
            x="loss foreseen (fan_in of synflow)",
            y="points of accuracy lost",
            joined=False,
        )
        return f"![Foreseen and found loss of every group of {model}](plots/{file})"

    def of_widths(self) -> str:
        """Every arm under every budget, with plots."""
        return self._tables(self.widths, "widths")

    def _tables(self, records: list[dict[str, Any]], stem: str) -> str:
        lines = summarise(records)
        if not lines:
            return "*Not measured yet.*"
        parts = []
        for place in dict.fromkeys((line.model, line.data) for line in lines):
            own = [line for line in lines if (line.model, line.data) == place]
            parts.append(
                f"**{place[0]} on {place[1]}**\n\n"
                + grid(["budget", *HEADER], [[line.budget, *cells(line)] for line in own])
            )
            for plot, text in plots(own).items():
                file = f"{stem}-{plot}"
                self.plots[file] = text
                parts.append(f"![Accuracy of every arm: {plot.removesuffix('.svg')}](plots/{file})")
        return "\n\n".join(parts)

    def against(self) -> str:
        """Paired differences: ours minus each other arm, seed by seed."""
        lines = summarise(self.widths)
        rows = []
        for own in (line for line in lines if line.label == "ours"):
            others = [
                x for x in lines if (x.model, x.data) == (own.model, own.data) and x.budget in (own.budget, "whole")
            ]
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
            return "*Not measured yet.*"
        return grid(["model", "budget", "ours minus", "points", "seeds", "reading"], rows)

    def everywhere(self) -> str:
        """How far every quick way to choose widths is below the best of them, under every budget that all have."""
        cells: dict[tuple[str, str], dict[str, float]] = {}
        for line in summarise(self.widths):
            if line.label in QUICK:
                cells.setdefault((line.model, line.budget), {})[line.label] = line.accuracy.value
        whole = {place: own for place, own in cells.items() if len(own) == len(QUICK)}
        if not whole:
            return "*Not measured yet.*"
        below = {arm: [own[arm] - max(own.values()) for own in whole.values()] for arm in QUICK}
        rows = [
            [arm, *(f"{gap:.1f}" for gap in gaps), f"{min(gaps):.1f}"]
            for arm, gaps in sorted(below.items(), key=lambda item: -min(item[1]))
        ]
        return grid(["arm", *(f"{model}, {budget}" for model, budget in whole), "worst"], rows)

    def measured(self) -> str:
        """Ours against the others at ours' measured latency, between the points that each of them has."""
        timed = [line for line in summarise(self.widths) if line.latency]
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
        return grid(header, rows) if rows else "*Not measured yet.*"

    def of_rlr(self) -> str:
        """The four initialisations."""
        ours = [r for r in self.rlr if r["run"]["arm"] == "ours"]
        # The widths experiment holds the same runs with `reinit`; what matters is that all else is equal.
        lines = summarise(ours)
        ways = {(r["run"]["options"]["rectify"]) for r in ours}
        if len(ways) < 2:
            return "*Not measured yet.*"
        rows = []
        for line in lines:
            way = line.records[0]["run"]["options"]["rectify"]
            if line.records[0]["run"]["options"]["evaluator"] == DEFAULT[1]:
                first = Mean.of([100 * r["curve"][0] for r in line.records])
                rows.append([line.model, line.budget, way, str(first), str(line.accuracy), str(line.accuracy.n)])
        return grid(["model", "budget", "rectify", "after one epoch %", "accuracy %", "seeds"], rows)

    def of_rate(self) -> str:
        """The same arms at several learning rates; the best of each arm is bold."""
        cells: dict[tuple[str, str], dict[float, Mean]] = {}
        for line in summarise(self.rate):
            run = line.records[0]["run"]
            arm = arm_label(run["arm"], run["options"])
            cells.setdefault((line.model, arm), {})[run["train"]["lr"]] = line.accuracy
        if not cells:
            return "*Not measured yet.*"
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

    def headline(self) -> str:
        """The headline of every tier there is."""
        parts = []
        for tier, records in self.headlines.items():
            lines = [line for line in summarise(records) if "100x" not in line.budget]
            for model in dict.fromkeys(line.model for line in lines):
                own = [row(line) for line in lines if line.model == model]
                parts.append(f"**{model}, tier {tier}**\n\n{grid(COLUMNS, own)}")
        return "\n\n".join(parts) or "*Not measured yet.*"

    def moonshot(self) -> str:
        """A hundred times fewer parameters."""
        lines = [line for records in self.headlines.values() for line in summarise(records)]
        rows = []
        for line in lines:
            whole = next((x for x in lines if (x.model, x.label) == (line.model, "dense")), None)
            if "100x" in line.budget and whole is not None:
                below = whole.accuracy.value - line.accuracy.value
                work = whole.training_macs / line.training_macs
                rows.append([line.model, line.label, str(line.accuracy), f"{below:.1f}", f"1/{work:.3g}"])
        header = ["model", "arm", "accuracy %", "points below dense", "training compute"]
        return grid(header, rows) if rows else "*Not measured yet.*"

    def beyond(self) -> str:
        """What accuracy does not say."""
        records = [r for records in (*self.headlines.values(), self.widths) for r in records if r.get("assessment")]
        lines = summarise(records)
        rows = [
            [line.model, line.budget, line.label, *(str(line.extra.get(what, "")) for what in EXTRA)] for line in lines
        ]
        return (
            grid(["model", "budget", "arm", *(f"{what} %" for what in EXTRA)], rows) if rows else "*Not measured yet.*"
        )

    def explored(self) -> str:
        """The short runs by which the default evaluator was found."""
        cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        file = self.results / "exploration.jsonl"
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines() if file.exists() else ()):
            cells.setdefault((name(line), budget_text(line["budget"]), line["way"]), []).append(line)
        rows = [
            [
                *cell,
                str(Mean.of([100 * r["accuracy"] for r in own])),
                f"{Mean.of([r['loss'] for r in own]).value:.3f}",
                str(len(own)),
                " ".join(map(str, own[0]["widths"])),
            ]
            for cell, own in sorted(cells.items(), key=lambda item: item[0][:2])
        ]
        header = ["model", "budget", "widths by", "accuracy %", "test loss", "seeds", "widths, first seed"]
        return grid(header, rows) if rows else "*Not measured yet.*"

    def missing(self) -> str:
        """What the protocol asks for and the results do not hold."""
        lines = summarise(self.widths)
        asked = []
        few = [line for line in lines if line.accuracy.n < 3]
        if few:
            asked.append(f"- Three seeds: {len(few)} of {len(lines)} rows on widths have fewer. One seed is no claim.")
        budgets = {line.budget for line in lines}
        for budget in BUDGETS:
            if budget not in budgets and self.tier == "small":
                asked.append(f"- Widths at {budget}.")
        labels = {line.label for line in lines}
        asked += [f"- The arm `{arm}`." for arm in ("nas", "torch_pruning") if arm not in labels]
        models = {v.model for v in verdicts(self.predict, self.scores)}
        wanted = ("vgg16_bn", "resnet20", "mobilenetv2") if self.tier == "small" else ()
        asked += [f"- Prediction on {m}." for m in wanted if not any(m in known for known in models)]
        if not self.headlines["full"] and self.tier == "small":
            asked.append(
                "- The full tier, 160 epochs on a GPU: `full` and `full_64` were tried for two steps of every arm on a "
                "CPU, the latter on a made-up folder of 200 classes."
            )
        return "\n".join(asked) or "- Nothing that the protocol asks for."


def undisturbed(records: list[dict[str, Any]]) -> float:
    """Seconds that runs would have taken, had every seed been as fast as the fastest seed of the same run."""
    cells: dict[str, list[float]] = {}
    for record in records:
        cells.setdefault(json.dumps({**record["run"], "seed": None}, sort_keys=True), []).append(record["seconds"])
    return sum(len(seconds) * min(seconds) for seconds in cells.values())


DEFAULT = ("synflow", "fan_in")
QUICK = ("ours", "uniform", "precrop", "channels", "random")
"""Ways to choose widths that train nothing."""
BUDGETS = (
    *(f"params {times}" for times in ("4x", "16.21x", "50x")),
    *(f"latency {times}" for times in ("2x", "4x", "8x")),
    "params 16.21x, macs 8x",
)


def _place(record: dict[str, Any]) -> tuple[str, str, str, str]:
    run = record["run"]
    rest = ", ".join(f"{key} {value}" for key, value in run["args"].items())
    return f"{run['model']}{', ' * bool(rest)}{rest}", run["data"], str(run["limit"] or "all"), str(run["epochs"])


def _file(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text) + ".svg"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _between(v: Verdict) -> str:
    return "–" if v.low is None or v.high is None else f"{v.low:.2f} to {v.high:.2f}"


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
