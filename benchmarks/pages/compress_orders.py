"""The table of docs/compress.md about the order of stages."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any

from compress_orders import RESULTS
from rows import read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("compress.md", "orders")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def settings() -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The rows of every network, data and number of epochs, in the order of the file."""
    names = ("model", "width", "data", "limit", "epochs")
    rows = read_rows(RESULTS)
    for chosen in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        yield dict(zip(names, chosen, strict=True)), [r for r in rows if tuple(r[n] for n in names) == chosen]


def table() -> str:
    """The results as they stand in docs/compress.md: accuracy of the exported file, mean and spread over seeds."""
    lines: list[str] = []
    for chosen, rows in settings():
        lines += [
            f"{chosen['model']}, width {chosen['width']:g}, {chosen['data']}, {chosen['limit']} images of a split, "
            f"{chosen['epochs']} epochs of training:",
            "",
            "| order | seeds | accuracy of the int8 file | its bytes | MACs | before it was compressed |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for order in dict.fromkeys(row["order"] for row in rows):
            of_order = [row["stages"] for row in rows if row["order"] == order]
            last = [stages[-1] for stages in of_order]
            scores, dense = [stage["score"] for stage in last], [_trained(stages) for stages in of_order]
            spread = f" ± {stdev(scores):.1%}" if len(scores) > 1 else ""
            size = mean(stage["costs"]["size"] for stage in last)
            macs = mean(stage["costs"]["macs"] for stage in last) / 1e6
            before = "" if None in dense else f"{mean(value for value in dense if value is not None):.1%}"
            lines.append(
                f"| {order} | {len(scores)} | {mean(scores):.1%}{spread} | {size:,.0f} | {macs:.2f} M | {before} |"
            )
        lines.append("")
    return "\n".join(lines)


def _trained(stages: list[dict[str, Any]]) -> float | None:
    """The accuracy of the dense trained network, where the order has one; its file may be larger than the source's."""
    source, first = stages[:2]
    is_dense = all(first["costs"][name] == source["costs"][name] for name in ("params", "macs"))
    return first["score"] if first["stage"] == "train" and is_dense else None
