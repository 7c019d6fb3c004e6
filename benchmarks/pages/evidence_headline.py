"""The evidence page's one screen: whether the claim holds, one table, one plot, and what they do not show."""

from __future__ import annotations

from typing import Any

from headline import HEADER, row

from pages.evidence_predict import NOTHING
from reconvene.experiments.pages import escaped_table
from reconvene.experiments.plot import Dot, scatter_svg
from reconvene.experiments.summary import WHOLE, ArmSummary, summarise

AIM = 0.5
"""Points of accuracy below the unstructured counterpart that count as level with it."""
ARMS = ("dense", "unstructured", "ours", "uniform")
TIERS = ("full", "paper", "small")
"""The most telling first; the page shows the first that has all four arms at 16.21x."""
PLOT = "headline.svg"


def shown_headline(headlines: dict[str, list[dict[str, Any]]]) -> list[ArmSummary]:
    """The four arms of the most telling tier, whole and under every budget of 16.21x on parameters."""
    for tier in TIERS:
        lines = summarise(headlines.get(tier, []))
        for model in dict.fromkeys(line.model for line in lines):
            own = [x for x in lines if x.model == model and (x.budget == WHOLE or "16.21x" in x.budget)]
            if {*ARMS} <= {line.label for line in own}:
                return [line for line in own if line.label in ARMS]
    return []


def claim(lines: list[ArmSummary]) -> str:
    """The verdict, one for each budget of ours, in sentences whose numbers come from the results."""
    if not lines:
        return NOTHING
    return "\n\n".join(_claim(line, lines) for line in lines if line.label == "ours")


def _claim(ours: ArmSummary, lines: list[ArmSummary]) -> str:
    """The verdict for one budget of ours."""
    masked, whole = (next(line for line in lines if line.label == arm) for arm in ("unstructured", "dense"))
    even = max((line for line in lines if line.label == "uniform"), key=lambda line: line.score.value)
    below = masked.score.value - ours.score.value
    verdict = "holds" if below <= AIM and (ours.speedup or 0) >= 2 else "does not hold yet"
    speed = "" if ours.speedup is None else f" and runs {ours.speedup:.1f} times as fast"
    above = ours.score.value - even.score.value
    return (
        f"**Here it {verdict}** ({ours.budget}; {regime(lines)}). Ours has 1/{1 / ours.params:.3g} of the parameters"
        f"{speed}, after {ours.search:.1f} s of pruning. Its accuracy is {_gap(below)} the unstructured counterpart's, "
        f"{_gap(whole.score.value - ours.score.value)} the dense network's, and {_gap(-above)} that of "
        f"uniform widths. The aim is at most {AIM} points below the unstructured counterpart."
    )


def regime(lines: list[ArmSummary]) -> str:
    """Network, images, epochs and seeds of the runs."""
    run, seeds = lines[0].records[0]["run"], min(line.score.n for line in lines)
    images = "all images" if run["limit"] is None else f"{run['limit']:,} images"
    return f"`{lines[0].model}`, {run['data']}, {images}, {run['epochs']} epochs, {seeds} seeds"


def headline_table(lines: list[ArmSummary]) -> str:
    """One row an arm and budget."""
    return escaped_table(HEADER, [row(line) for line in lines]) if lines else NOTHING


def headline_plot(lines: list[ArmSummary], plots: dict[str, str]) -> str:
    """Accuracy against parameters; adds the plot."""
    if not lines:
        return NOTHING
    dots = [
        Dot(
            line.records[0]["params"],
            line.score.value,
            line.label,
            f"{line.label}, {line.budget}: {line.score_text} %",
            line.score.spread or 0.0,
        )
        for line in lines
    ]
    title = "Accuracy after training, by parameters"
    plots[PLOT] = scatter_svg(title, dots, x="parameters that are not zero", y="accuracy %")
    return f"![{title}](plots/{PLOT})"


def limits(lines: list[ArmSummary]) -> str:
    """What must not be read into the table."""
    points = [
        "Accuracies of the paper, or of any other: the copy of CIFAR-10 here went through JPEG, on which a public "
        "checkpoint loses 15 points. Only differences between rows mean something."
    ]
    if lines:
        run = lines[0].records[0]["run"]
        if run["epochs"] < 160:
            points.append(f"Long schedules: the paper trains for 160 epochs, these runs for {run['epochs']}.")
        if "width" in run["args"]:
            points.append(
                f"The whole network: this one has {run['args']['width']:g} of its width, where 16.21x is a harder cut."
            )
        if run["limit"] is not None:
            points.append(f"All images: {run['limit']:,} were used to train.")
        points.append("Other networks and data sets: see the details for ResNet-20 and MobileNetV2.")
    points.append("That three seeds are enough to call two arms equal: they show differences only.")
    return "\n".join(f"- {point}" for point in points)


def _gap(below: float) -> str:
    """A difference in accuracy, in words that go before what is compared."""
    if abs(below) < 0.05:
        return "level with"
    return f"{abs(below):.1f} points {'below' if below > 0 else 'above'}"
