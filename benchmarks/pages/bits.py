"""The tables and plots of docs/bits.md: accuracy by bytes of packed weights, uniform bits beside bits by channel."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

from rows import Row, read_rows

from pages.generated_part import DOCS, GeneratedPart, update_files
from reconvene.experiments.plot import Dot, scatter_svg

RESULTS = Path(__file__).resolve().parents[1] / "results"
EXPERIMENTS = ("bits_cifar10", "bits_spoken_digits")
PART = GeneratedPart("bits.md", "compared")
ARMS = {
    "uniform_bits": "uniform bits",
    "pruned_then_quantised": "pruned, then uniform bits",
    "joint_bits": "widths and bits in seconds",
    "searched_bits": "widths and bits by search",
}
"""How the page calls the arms."""


def update(*, write: bool = True) -> bool:
    """Write tables and plots; returns whether one of them was another."""
    texts, plots = [], {}
    for name in EXPERIMENTS:
        rows = [row for row in read_rows(RESULTS / f"{name}.jsonl") if row["run"]["arm"] in (*ARMS, "dense")]
        if rows:
            texts.append(f"{table(rows)}\n![Accuracy by bytes](plots/{name}.svg)\n")
            plots[DOCS / "plots" / f"{name}.svg"] = plot(rows)
    return update_files({**PART.filled("\n".join(texts)), **plots}, write=write)


def settings(rows: list[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """The rows of every setting, its seeds: arm, bits of weights, budget; budgets from large to small."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        run = row["run"]
        if run["arm"] != "dense":
            key = run["arm"], str(run["options"].get("bits", "")), run["budget"].get("size", "")
            found.setdefault(key, []).append(row)
    return dict(sorted(found.items(), key=lambda item: ([*ARMS].index(item[0][0]), -packed(item[1]))))


def packed(rows: list[Row]) -> float:
    """Bytes of packed weights, scales and biases, the mean over seeds."""
    return mean(row["facts"]["packed"] for row in rows)


def table(rows: list[Row]) -> str:
    """What was trained, and a line for each setting."""
    run, dense = rows[0]["run"], [row["accuracy"] for row in rows if row["run"]["arm"] == "dense"]
    lines = [
        f"`{run['model']}`, {rows[0]['dataset']}; {run['epochs']} epochs in all; dense in float32 {score(dense)}:",
        "",
        "| method | bits | budget | packed | accuracy | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (arm, bits, budget), own in settings(rows).items():
        accuracies = [row["accuracy"] for row in own]
        cells = [ARMS[arm], bits or "0, 2, 4, 8", budget.replace("kB", " kB"), f"{packed(own) / 1e3:.1f} kB"]
        lines.append(f"| {' | '.join([*cells, score(accuracies), str(len(own))])} |")
    return "\n".join(lines) + "\n"


def score(accuracies: list[float]) -> str:
    """Mean, and standard deviation over seeds where there is more than one."""
    return f"{mean(accuracies):.1%}" + (f" ± {stdev(accuracies):.1%}" if len(accuracies) > 1 else "")


def plot(rows: list[Row]) -> str:
    """Accuracy by packed bytes, a line for each method."""
    dots = []
    for (arm, bits, _), own in settings(rows).items():
        accuracies = [100 * row["accuracy"] for row in own]
        series = f"{ARMS[arm]} ({bits})" if arm == "pruned_then_quantised" else ARMS[arm]
        spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
        text = f"{series}: {mean(accuracies):.1f} % in {packed(own) / 1e3:.1f} kB"
        dots.append(Dot(packed(own) / 1e3, mean(accuracies), series, text, spread))
    title = f"{rows[0]['run']['model']} on {rows[0]['run']['data']}"
    return scatter_svg(title, dots, x="kB of packed weights", y="accuracy (%)")
