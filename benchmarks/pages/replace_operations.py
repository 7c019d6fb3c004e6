"""The table of docs/compress.md about cheaper non-linear operations."""

from __future__ import annotations

from replace_operations import RESULTS
from rows import read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("compress.md", "operations")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """The results as they stand in docs/compress.md."""
    lines = [
        "| network | data | seed | int8 before | after | latency before | after |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in read_rows(RESULTS):
        before, after = row["stages"][2], row["stages"][-1]
        lines.append(
            f"| {row['network']} | {row['data']}, {row['limit']} | {row['seed']} | {before['score']:.1%} | "
            f"{after['score']:.1%} | {before['latency'] * 1e3:.3f} ms | {after['latency'] * 1e3:.3f} ms |"
        )
    return "\n".join(lines) + "\n"
