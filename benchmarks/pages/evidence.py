"""docs/evidence.md, its details and plots, from the results on disk: every number and every verdict comes from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headline import HEADER as COLUMNS
from headline import row

from pages.evaluator_ranks import name, verdicts
from pages.evidence_headline import claim, headline_plot, headline_table, limits, shown_headline
from pages.evidence_predict import NOTHING, prediction
from pages.evidence_widths import against, everywhere, measured, of_rate, of_rlr, tables
from pages.generated_part import DOCS, update_files
from reconvene.experiments import read_results
from reconvene.experiments.pages import escaped_table
from reconvene.experiments.summary import EXTRA, Mean, budget_text, summarise

HERE = Path(__file__).parent


def update(*, write: bool = True) -> bool:
    """Write docs/evidence.md and its details; returns whether one was old."""
    return write_page(HERE.parent / "results", DOCS / "evidence.md", tier="small", write=write)


def write_page(results: Path, page: Path, *, tier: str, write: bool = True) -> bool:
    """Write the page, its details and the plots beside it; returns whether one was old."""
    found = Found(results, tier)
    texts = {page: found.page(), page.with_name(f"{page.stem}-details.md"): found.details()}
    texts |= {page.parent / "plots" / name: text for name, text in found.plots.items()}
    return update_files(texts, write=write)


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
            name: read_results(results / f"headline_{name}.jsonl") for name in ("small", "paper", "full", "full_64")
        }

    def page(self) -> str:
        """The page of one screen."""
        shown = shown_headline(self.headlines)
        return filled(
            "evidence.md.in",
            {
                "CLAIM": lambda: claim(shown),
                "TABLE": lambda: headline_table(shown),
                "PLOT": lambda: headline_plot(shown, self.plots),
                "LIMITS": lambda: limits(shown),
            },
        )

    def details(self) -> str:
        """The appendix: every experiment."""
        makers: dict[str, Callable[[], str]] = {
            "PROTOCOL": self.protocol,
            "CLAIM": lambda: claim(shown_headline(self.headlines)),
            "PREDICT": lambda: prediction(self.predict, self.scores, self.plots),
            "WIDTHS": lambda: tables(self.widths, self.plots),
            "AGAINST": lambda: against(self.widths),
            "EVERYWHERE": lambda: everywhere(self.widths),
            "MEASURED": lambda: measured(self.widths),
            "RLR": lambda: of_rlr(self.rlr),
            "RATE": lambda: of_rate(self.rate),
            "HEADLINE": self.headline,
            "MOONSHOT": self.moonshot,
            "BEYOND": self.beyond,
            "EXPLORED": self.explored,
            "MISSING": self.missing,
        }
        return filled("evidence_details.md.in", makers)

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
        return "\n\n".join([escaped_table(header, rows), took, ran])

    def headline(self) -> str:
        """The headline of every tier there is."""
        parts = []
        for tier, records in self.headlines.items():
            lines = [line for line in summarise(records) if "100x" not in line.budget]
            for model in dict.fromkeys(line.model for line in lines):
                own = [row(line) for line in lines if line.model == model]
                parts.append(f"**{model}, tier {tier}**\n\n{escaped_table(COLUMNS, own)}")
        return "\n\n".join(parts) or NOTHING

    def moonshot(self) -> str:
        """A hundred times fewer parameters."""
        lines = [line for records in self.headlines.values() for line in summarise(records)]
        rows = []
        for line in lines:
            whole = next((x for x in lines if (x.model, x.label) == (line.model, "dense")), None)
            if "100x" in line.budget and whole is not None:
                below = whole.score.value - line.score.value
                work = whole.training_macs / line.training_macs
                rows.append([line.model, line.label, line.score_text, f"{below:.1f}", f"1/{work:.3g}"])
        header = ["model", "arm", "accuracy %", "points below dense", "training compute"]
        return escaped_table(header, rows) if rows else NOTHING

    def beyond(self) -> str:
        """What accuracy does not say."""
        records = [r for records in (*self.headlines.values(), self.widths) for r in records if r.get("assessment")]
        lines = summarise(records)
        names = [name for name in EXTRA if any(name in line.extra for line in lines)]
        rows = [
            [line.model, line.budget, line.label, *(str(line.extra.get(name, "")) for name in names)] for line in lines
        ]
        return escaped_table(["model", "budget", "arm", *(f"{name} %" for name in names)], rows) if rows else NOTHING

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
        return escaped_table(header, rows) if rows else NOTHING

    def missing(self) -> str:
        """What the protocol asks for and the results do not hold."""
        lines = summarise(self.widths)
        asked = []
        few = [line for line in lines if line.score.n < 3]
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


def filled(template: str, makers: dict[str, Callable[[], str]]) -> str:
    """A template with what takes the place of its marks."""
    text = (HERE / template).read_text(encoding="utf-8")
    for mark, make in makers.items():
        text = text.replace(f"@{mark}@", make())
    left = re.findall(r"@[A-Z]+@", text)
    assert not left, f"the template asks for {left}"
    return text


def undisturbed(records: list[dict[str, Any]]) -> float:
    """Seconds that runs would have taken, had every seed been as fast as the fastest seed of the same run."""
    cells: dict[str, list[float]] = {}
    for record in records:
        cells.setdefault(json.dumps({**record["run"], "seed": None}, sort_keys=True), []).append(record["seconds"])
    return sum(len(seconds) * min(seconds) for seconds in cells.values())


BUDGETS = (
    *(f"params {times}" for times in ("4x", "16.21x", "50x")),
    *(f"latency {times}" for times in ("2x", "4x", "8x")),
    "params 16.21x, macs 8x",
)


def _place(record: dict[str, Any]) -> tuple[str, str, str, str]:
    run = record["run"]
    rest = ", ".join(f"{key} {value}" for key, value in run["args"].items())
    return f"{run['model']}{', ' * bool(rest)}{rest}", run["data"], str(run["limit"] or "all"), str(run["epochs"])
