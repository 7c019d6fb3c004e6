"""The table of docs/encrypted.md: time of dense over pruned beside the ratio of multiply-accumulates."""

from __future__ import annotations

from statistics import median

from encrypted_time import RESULTS
from rows import Row, read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("encrypted.md", "encrypted time")
HEADER = (
    "| budget | multiply-accumulates | products of 300 images | seconds | time, dense over pruned | largest error |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """One line for each budget."""
    return HEADER + "".join(_line(row) for row in read_rows(RESULTS))


def _line(row: Row) -> str:
    macs, products = row["multiply_accumulates"], row["products"]
    seconds = {name: median(values) for name, values in row["seconds"].items()}
    cells = (
        f"`macs={row['macs']}`",
        f"{macs['dense']:,} to {macs['pruned']:,}: {macs['dense'] / macs['pruned']:.2f}x",
        f"{products['dense']:,} to {products['pruned']:,}",
        f"{seconds['dense']:.1f} to {seconds['pruned']:.1f}",
        f"{row['ratio']:.2f}x",
        f"{max(row['error'].values()):.0e}",
    )
    return f"| {' | '.join(cells)} |\n"
