"""Write docs/coverage.md from the results of the sweep: counts first, then reasons, then every network."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import quantiles
from typing import Any

from architectures import other_architectures
from architectures.results import STAGES, STATES, Results, kind

from pages.generated_part import update_files

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "zoo.jsonl"
VALUES = ROOT / "benchmarks" / "results" / "zoo_values.jsonl"
PAGE = ROOT / "docs" / "coverage.md"
SOURCES = {
    "torchvision": "every classifier, segmentation model and detector of torchvision",
    "timm": "the smallest network of every timm family",
    "timm, rotation": "other networks of timm, a tenth a run",
    "transformers": "vision, audio and language architectures of transformers, from small configs",
    "own": "one small network per mechanism",
}
LONGEST = 240
"""Characters of a reason; the whole is in the results."""
CELLS = {"passed": "✓", "refused": "refused", "failed": "failed", "WRONG": "**WRONG**"}

Record = dict[str, Any]


def update(*, write: bool = True) -> bool:
    """Write the page; returns whether it was old."""
    records, values = (list(Results(path).records.values()) for path in (RESULTS, VALUES))
    if not records:
        sys.exit(f"{RESULTS} holds no results of this form of the sweep. Run benchmarks/zoo.py first.")
    return update_files({PAGE: page(records, values, rotation=frozenset(other_architectures()))}, write=write)


def page(records: list[Record], values: list[Record], *, rotation: frozenset[str] = frozenset()) -> str:
    """The whole page, from the results of the sweep and those of the sweep with checks of values."""
    records = [record | {"source": source(record, rotation)} for record in records]
    values = [record | {"source": source(record, rotation)} for record in values]
    commits = sorted({record["commit"] for record in [*records, *values]})
    versions = ", ".join(f"{name} {number}" for name, number in records[0]["versions"].items())
    return f"""# Which architectures are covered

```
make test-zoo                        # hours, resumable: the results
python benchmarks/pages coverage     # writes this page from them; do not edit it by hand
```

Every network takes the road that users take. Its parameters are random, with scales, biases and norm statistics of both
signs, as training leaves them. `rc.plan` plans twice: criterion `magnitude` with the budget `params="2x"`, and
`synflow` with `macs="4x"`. `plan.apply` makes the small network, and its outputs are compared with those of
`plan.mask` in double precision (2e-6 relative; 1e-4 where a network computes in single precision only). The last small
network is rectified, takes a training step that must lower the loss, is saved, loaded, exported to ONNX and verified in
ONNX Runtime.

*Passed* means every stage. *Refused* means an error that Reconvene raises on purpose, such as a budget below the floor
of the network. *Failed* means any other error, or a limit of time or memory. *WRONG* means a difference without an
error.

{counts(records)}

{upstream(records)}

Stage by stage (a network whose second plan fails has passed `apply` and `compare` with its first plan):

{stages(records)}

{values_summary(values)}

## Refused, failed, WRONG

{exceptions(records, values)}

## Every network

{listings(records, values)}

Measured at commit {", ".join(commits)} on {records[0]["machine"]}, one thread a network, with {versions}.
"""


def source(record: Record, rotation: frozenset[str]) -> str:
    """Where a network comes from, in the words of the page."""
    return "timm, rotation" if record["name"] in rotation else str(record["source"])


def counts(records: list[Record]) -> str:
    """How many networks of each source have which verdict."""
    lines = [f"| source | networks | {' | '.join(STATES)} |", f"| --- |{' ---: |' * (len(STATES) + 1)}"]
    for name, words in SOURCES.items():
        kinds = Counter(kind(record) for record in records if record["source"] == name)
        if kinds:
            lines.append(f"| **{name}**: {words} | {kinds.total()} | {numbers(kinds)} |")
    total = Counter(map(kind, records))
    return "\n".join([*lines, f"| all | {total.total()} | {numbers(total)} |"])


def upstream(records: list[Record]) -> str:
    """How many of the refusals at the export are those of the dense network, too."""
    refused = [record for record in records if kind(record) == "refused"]
    also = sum("the dense network is refused, too" in record["verdict"] for record in refused)
    share = (len(refused) - also) / len(records)
    return (
        f"Of {len(refused)} refusals {also} are those of an export that is refused for the dense network, too: the "
        "exporter of PyTorch cannot take it, or it amplifies rounding so much that float32 says nothing. The other "
        f"{len(refused) - also} are {share:.1%} of the networks."
    )


def numbers(kinds: Counter[str]) -> str:
    """The counts of all states as cells."""
    return " | ".join(str(kinds[state]) for state in STATES)


def stages(records: list[Record]) -> str:
    """How many networks passed each stage, and how long it took."""
    lines = [
        f"| stage | {' | '.join(STATES)} | not reached | seconds, median | 95 % | longest | network |",
        f"| --- |{' ---: |' * (len(STATES) + 4)} --- |",
    ]
    for stage in STAGES:
        reached = [record for record in records if stage in record.get("stages", {})]
        if not reached:
            continue
        kinds = Counter(state_in(record, stage) for record in reached)
        seconds = {record["name"]: record["stages"][stage]["seconds"] for record in reached}
        longest = max(seconds, key=lambda name: seconds[name])
        middle, high = percentiles(seconds.values())
        figures = f"{middle:.2f} | {high:.2f} | {seconds[longest]:.2f} | {longest}"
        lines.append(f"| {stage} | {numbers(kinds)} | {len(records) - len(reached)} | {figures} |")
    return "\n".join(lines)


def state_in(record: Record, stage: str) -> str:
    """The state of a stage; the verdict where the verdict names it, since the first of two plans may have passed."""
    named = record["verdict"].partition(" (")[2].partition(":")[0]
    return kind(record) if named == stage else str(record["stages"][stage]["state"])


def percentiles(values: Iterable[float]) -> tuple[float, float]:
    """The median and the 95th percentile."""
    ordered = sorted(values)
    cuts = quantiles(ordered, n=20, method="inclusive") if len(ordered) > 1 else ordered * 19
    return cuts[9], cuts[18]


def values_summary(values: list[Record]) -> str:
    """One sentence about the networks with checks of values."""
    if not values:
        return "No results with checks of values."
    kinds = Counter(map(kind, values))
    counted = ", ".join(f"{kinds[state]} {state}" for state in STATES)
    return (
        "With checks of values around every network (the inputs are tested for NaN, one module in the middle asserts a "
        f"finite output; plan, apply and compare only), of {len(values)} networks: {counted}."
    )


def exceptions(records: list[Record], values: list[Record]) -> str:
    """Every network that did not pass, the worst first, with the stage and the reason."""
    rows = [(record, "") for record in records] + [(record, ", with checks of values") for record in values]
    rows = [row for row in rows if kind(row[0]) != "passed"]
    if not rows:
        return "None."
    rows.sort(key=lambda row: (-STATES.index(kind(row[0])), row[0]["name"]))
    lines = ["| network | verdict | reason |", "| --- | --- | --- |"]
    lines += [f"| {record['name']}{words} | {kind(record)} | {reason(record)} |" for record, words in rows]
    return "\n".join(lines)


def reason(record: Record) -> str:
    """The reason of a verdict, and what holds most of the parameters where a budget was refused; fit for a table."""
    text = str(record["verdict"].partition(" (")[2].removesuffix(")"))
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    if "BudgetError" in text and record.get("why"):
        text += f" Pinned: {record['why']}"
    return text.replace("|", "\\|").replace("\n", " ")


def listings(records: list[Record], values: list[Record]) -> str:
    """A table for each source: what each network passed."""
    checked = {record["name"]: CELLS[kind(record)] for record in values}
    parts = []
    for name in SOURCES:
        chosen = [record for record in records if record["source"] == name]
        if not chosen:
            continue
        header = ["network", "parameters", "kept", *STAGES, "values", "error", "s"]
        lines = [f"### {name}", "", f"| {' | '.join(header)} |", f"| --- | ---: | ---: |{' --- |' * 9} ---: | ---: |"]
        for record in sorted(chosen, key=lambda record: record["name"]):
            lines.append(f"| {' | '.join(cells(record, checked.get(record['name'], '')))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def cells(record: Record, values: str) -> list[str]:
    """The row of a network."""
    done = record.get("stages", {})
    return [
        record["name"].partition("/")[2],
        f"{record['parameters']:,}" if "parameters" in record else "",
        " ".join(f"{kept:.0%}" for kept in record.get("kept", {}).values()),
        *(CELLS[done[stage]["state"]] if stage in done else "" for stage in STAGES),
        values,
        f"{record['error_of_outputs']:.0e}" if "error_of_outputs" in record else "",
        f"{record['seconds']:.0f}",
    ]
