"""Write docs/speed.md and its plot from what plans, structure and commands were measured to take."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from rows import read_rows

from pages.generated_part import update_files

ROOT = Path(__file__).resolve().parents[2]
SCALING = ROOT / "benchmarks" / "results" / "structure_scaling.jsonl"
PLANS = ROOT / "benchmarks" / "results" / "plan_scaling.jsonl"
RIVALS = ROOT / "benchmarks" / "results" / "structure_time.jsonl"
COMMANDS = ROOT / "benchmarks" / "results" / "command_time.jsonl"
PRUNING = ROOT / "benchmarks" / "results" / "prune_time.jsonl"
SYNFLOW = ROOT / "benchmarks" / "results" / "synflow_time.jsonl"
PAGE, CHART = ROOT / "docs" / "speed.md", ROOT / "docs" / "plots" / "structure-growth.svg"
COLORS = {"residual": "#1f6feb", "transformer": "#c2410c", "dense": "#15803d"}
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 400, 70, 50
OURS = "reconvene"
CORES = 2
"""Of the machine that these are measured on: a higher load means that other processes ran."""

Record = dict[str, Any]


def update(*, write: bool = True) -> bool:
    """Write the page and its plot; returns whether one was old."""
    scaling = read_rows(SCALING)
    return update_files({PAGE: page(scaling), CHART: chart(grown(scaling))}, write=write)


def page(scaling: list[Record]) -> str:
    """The whole page."""
    rivals, plans, commands, pruning, rounds = map(read_rows, (RIVALS, PLANS, COMMANDS, PRUNING, SYNFLOW))
    return f"""# How fast a plan is

```
make bench                        # measures
python benchmarks/pages speed     # writes this page from benchmarks/results; do not edit it by hand
```

The results are in `plan_scaling.jsonl`, `prune_time.jsonl`, `synflow_time.jsonl`, `structure_scaling.jsonl`,
`structure_time.jsonl` and `command_time.jsonl`. Seconds over whole model zoos are in [Coverage](coverage.md).

## A whole plan

`rc.plan(model, x, rc.Budget(params="2x"))` on one thread. *Plan* is the first in a process and includes what it
imports; *by magnitude*, with a criterion that scores every weight, is planned after it in the same process.
*Comparison* is the share of the last step, which runs the small network and the silenced one and compares their outputs
(`verify=False` skips it). *Memory* is the highest memory of the plan, weights included, over that of the weights.

{whole(plans)}

{measured(plans)}

{pruning_section(pruning, rounds)}## A whole command

Processor seconds of a command, from an empty process to its end, and how many times as long as `python -c "import
torch"` it takes; both run in turn, and the ratio is the median over the pairs. *Times imports* compares with importing
the packages of the network as well (torchvision, timm).

{whole_commands(commands)}

{measured(commands)}{disturbed(commands)}

## Cost of structure grows with the number of calls

Networks of growing depth, built on the meta device; processor seconds of one thread for `analyse`, the trial included,
the least of two runs.

![Seconds of structure against recorded calls, both logarithmic](plots/structure-growth.svg)

{growth(scaling)}

A dense block is the exception by nature: each layer reads all layers before it, so the calls themselves grow.

## Large models without their weights

Built on the meta device, where nothing is allocated: wall-clock seconds of the first run in a fresh process, and what
the process grew by.

{large(scaling)}

{measured(scaling)}

## Beside other tools

The same job in one run, in turn, each tool and model in a process of its own with everything imported: half the
channels of every group, ranked by magnitude, found and removed. Limits: 60 seconds and 9 GiB. *Right* means that the
smaller network runs, and where nothing counts channels, that removing channels planted as dead left the output as it
was.

{summary(rivals)}

{each(rivals)}

{ahead(rivals)}

{measured(rivals)}
"""


def whole(plans: list[Record]) -> str:
    """One line for every network that was planned."""
    lines = [
        "| network | parameters | plan, s | by magnitude, s | comparison | memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in plans:
        name = r["name"].removeprefix("chain/").removeprefix("wide/")
        if r["verdict"] != "done":
            lines.append(f"| {name} | {r['verdict']} | | | | |")
            continue
        lines.append(
            f"| {name} | {r['parameters'] / 1e6:,.1f}M | {r['plan_seconds']:.2f} | {r['magnitude_seconds']:.2f} | "
            f"{r['verify_share']:.0%} | {r['memory_ratio']:.2f}x |"
        )
    return "\n".join(lines)


def pruning_section(rows: list[Record], rounds: list[Record]) -> str:
    """Seconds of whole prunings and of SynFlow's rounds; empty where nothing is measured."""
    if not rows and not rounds:
        return ""
    parts = [
        """## From a network to its pruned form

`rc.prune` to 16.21 times fewer parameters, on one thread: seconds by default, where widths come from shapes and nothing
is scored, and with the criterion `synflow`, of which *scores* are its hundred rounds. *Usual loop* is a hundred rounds
of SynFlow as its paper writes them (one backward pass each, weights in float64), on images of at most 32x32."""
    ]
    parts += [pruned(rows)] if rows else []
    parts += [synflow(rounds)] if rounds else []
    return "\n\n".join([*parts, measured(rows or rounds)]) + "\n\n"


def pruned(rows: list[Record]) -> str:
    """One line for every network, by default and with SynFlow."""
    lines = [
        "| network | default, s | with `synflow`, s | of it scores, s | usual loop, s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        default, synflow, loop = (row["seconds"][way] for way in ("default", "synflow", "loop"))
        lines.append(
            f"| {row['model']} | {default['all']:.2f} | {synflow['all']:.2f} | {synflow['saliency']:.2f} | "
            f"{loop['all']:.1f} |"
        )
    return "\n".join(lines)


def synflow(rows: list[Record]) -> str:
    """One sentence for every network whose rounds were timed in turn with those of the usual loop."""
    sentences = []
    for row in rows:
        usual, ours = row["cpu_seconds"].values()
        sentences.append(
            f"Round by round in turn, {row['rounds']} rounds of `{row['model']}` take {ours / usual:.2f} of the "
            f"processor time of the usual loop ({ours:.1f} s and {usual:.1f} s), and both masks agree in "
            f"{row['overlap']:.2%} of the weights that stay."
        )
    return "\n".join(sentences)


def disturbed(rows: list[Record]) -> str:
    """A warning where rows were measured beside other work; empty where none was."""
    names = [f"{row['command']} of {row['model']}" for row in rows if row["load"] > CORES]
    return f" Measured beside other work, so the seconds are high: {', '.join(names)}." if names else ""


def ahead(rivals: list[Record]) -> str:
    """Where another tool was faster, and where the largest gap is."""
    sentences = []
    mine = {r["model"]: r["cpu_seconds"] for r in rivals if r["tool"] == OURS and right(r)}
    for tool in dict.fromkeys(r["tool"] for r in rivals if r["tool"] != OURS):
        own = [r for r in rivals if r["tool"] == tool and right(r) and r["model"] in mine]
        if not own:
            continue
        ratios = {r["model"]: r["cpu_seconds"] / mine[r["model"]] for r in own}
        faster = [model for model, ratio in ratios.items() if ratio < 1]
        most = max(ratios, key=lambda model: ratios[model])
        sentences.append(
            f"{tool} is faster on {', '.join(faster) if faster else 'none of these'}; the largest gap is "
            f"{ratios[most]:.1f}x ({most})."
        )
    return " ".join(sentences)


def whole_commands(commands: list[Record]) -> str:
    """One line for every command of every network."""
    lines = [
        "| command | network | `import torch`, s | command, s | times `import torch` | times imports |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r['command']} | {r['model']} | {r['torch']:.2f} | {r['seconds']:.2f} | {r['times_torch']:.2f} | "
        f"{r['times_imports']:.2f} |"
        for r in commands
    ]
    return "\n".join(lines)


def grown(scaling: list[Record]) -> dict[str, list[Record]]:
    """The rows of every series that has been measured, from small to large."""
    rows = {name: [r for r in scaling if r["source"] == name and "cpu_seconds" in r] for name in COLORS}
    return {name: sorted(own, key=lambda r: r["ops"]) for name, own in rows.items()}


def growth(scaling: list[Record]) -> str:
    """One line for every series: its ends, and the exponent of cost over calls."""
    lines = [
        "| series | calls | ms a call, smallest | ms a call, largest | seconds grow as calls to the |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in grown(scaling).items():
        small, great = (1000 * r["cpu_seconds"] / r["ops"] for r in (rows[0], rows[-1]))
        calls = f"{rows[0]['ops']} to {rows[-1]['ops']}"
        lines.append(f"| {name} | {calls} | {small:.3f} | {great:.3f} | {slope(rows):.2f} |")
    return "\n".join(lines)


def slope(rows: list[Record]) -> float:
    """The exponent of seconds over calls, by least squares of logarithms."""
    return statistics.linear_regression(
        [math.log(r["ops"]) for r in rows], [math.log(r["cpu_seconds"]) for r in rows]
    ).slope


def large(scaling: list[Record]) -> str:
    """One line for every large model."""
    lines = ["| model | parameters | calls | groups | seconds | MiB |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for r in (r for r in scaling if r["source"] == "large"):
        figures = [f"{r['verdict']}", "", "", "", ""]
        if "cpu_seconds" in r:
            figures = [f"{r['parameters'] / 1e6:,.0f}M", f"{r['ops']}", f"{r['groups']}"]
            figures += [f"{r['seconds_structure']:.2f}", f"{r['mib_above_start']}"]
        lines.append(f"| {r['name'].partition('/')[2]} | {' | '.join(figures)} |")
    return "\n".join(lines)


def right(record: Record) -> bool:
    """Whether a tool did the job on a model."""
    return bool(record["ok"]) and record.get("lossless") is not False


def summary(rivals: list[Record]) -> str:
    """One line for every tool."""
    mine = {r["model"]: r["cpu_seconds"] for r in rivals if r["tool"] == OURS and right(r)}
    lines = [
        "| tool | right | median, s | worst, s | MiB above the model | times ours, median |",
        "| --- |" + " ---: |" * 5,
    ]
    for tool in dict.fromkeys(r["tool"] for r in rivals):
        own = [r for r in rivals if r["tool"] == tool]
        good = [r for r in own if right(r)]
        seconds = [r["cpu_seconds"] for r in good]
        ratios = [r["cpu_seconds"] / mine[r["model"]] for r in good if r["model"] in mine]
        figures = ["", "", "", ""]
        if good:
            memory = statistics.median(r["peak_mib_above_model"] for r in good)
            figures = [f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}", f"{memory:.0f}"]
            figures += [f"{statistics.median(ratios):.1f}"]
        version = rivals[0]["rivals"].get(tool, "")
        lines.append(f"| {tool} {version} | {len(good)} of {len(own)} | {' | '.join(figures)} |")
    return "\n".join(lines)


def each(rivals: list[Record]) -> str:
    """One line for every model: processor seconds of each tool, or what went wrong."""
    tools = list(dict.fromkeys(r["tool"] for r in rivals))
    lines = [f"| model | {' | '.join(tools)} |", "| --- |" + " ---: |" * len(tools)]
    for model in dict.fromkeys(r["model"] for r in rivals):
        found = {r["tool"]: r for r in rivals if r["model"] == model}
        cells = [outcome(found[tool]) if tool in found else "" for tool in tools]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def outcome(record: Record) -> str:
    """Seconds, or in a few words why there are none."""
    if right(record):
        return f"{record['cpu_seconds']:.2f}"
    words = record.get("error", "another output").replace("|", "\\|").replace("\n", " ")
    return words if len(words) < 60 else words[:57] + "..."


def measured(records: list[Record]) -> str:
    """On what this was measured."""
    if not records:
        return "Not measured yet."
    versions = ", ".join(f"{name} {number}" for name, number in records[0]["versions"].items())
    return f"Measured at commit {records[0]['commit']} on {records[0]['machine']}, one thread, with {versions}."


def chart(series: dict[str, list[Record]]) -> str:
    """Seconds against calls, both logarithmic, with a dashed line of slope one for the eye."""
    points = [r for rows in series.values() for r in rows]
    x = axis([r["ops"] for r in points], LEFT, WIDTH - 20)
    y = axis([r["cpu_seconds"] for r in points], HEIGHT - BOTTOM, 20)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for power in range(-3, 5):
        value, label = 10.0**power, f"{10.0**power:g}"
        if LEFT <= x(value) <= WIDTH - 20:
            parts.append(f'<path d="M{x(value):.1f} 20V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
            parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
        if 20 <= y(value) <= HEIGHT - BOTTOM:
            parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - 20}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{label}</text>')
    low, high = min(r["ops"] for r in points), max(r["ops"] for r in points)
    base = statistics.median(r["cpu_seconds"] / r["ops"] for r in points)
    line = f"M{x(low):.1f} {y(base * low):.1f}L{x(high):.1f} {y(base * high):.1f}"
    parts.append(f'<path d="{line}" stroke="#888" stroke-dasharray="5 5" fill="none"/>')
    for number, (name, rows) in enumerate(series.items()):
        path = "L".join(f"{x(r['ops']):.1f} {y(r['cpu_seconds']):.1f}" for r in rows)
        parts.append(f'<path d="M{path}" stroke="{COLORS[name]}" stroke-width="2.5" fill="none"/>')
        parts += [
            f'<circle cx="{x(r["ops"]):.1f}" cy="{y(r["cpu_seconds"]):.1f}" r="4" fill="{COLORS[name]}"/>' for r in rows
        ]
        parts.append(f'<text x="{LEFT + 14}" y="{40 + 18 * number}" fill="{COLORS[name]}">{name}</text>')
    parts.append(f'<text x="{LEFT + 14}" y="{40 + 18 * len(series)}" fill="#666">in proportion (dashed)</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">recorded calls</text>')
    middle = (HEIGHT - BOTTOM + 20) / 2
    turned = (
        f'<text x="18" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 18 {middle:.0f})">seconds</text>'
    )
    return "\n".join([*parts, turned, "</svg>"]) + "\n"


def axis(values: list[float], start: float, end: float) -> Any:
    """From a value to its place on a logarithmic axis, with a little room at both ends."""
    low, high = math.log(min(values)) - 0.2, math.log(max(values)) + 0.2
    return lambda value: start + (math.log(value) - low) / (high - low) * (end - start)
