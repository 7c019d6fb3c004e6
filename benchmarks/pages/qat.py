"""The table of docs/qat.md: int8 after quantisation-aware training."""

from __future__ import annotations

from qat import FORMATS_ASKED, RESULTS
from rows import read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("qat.md", "qat")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """The results as they stand in docs/qat.md."""
    kinds = [*FORMATS_ASKED, "executorch, learned"]
    lines = [
        "| network, seed | last epochs | float32 | " + " | ".join(kinds) + " |",
        "| --- | --- |" + " --- |" * (len(kinds) + 1),
    ]
    for row in read_rows(RESULTS):
        for arm, found in row["arms"].items():
            cells = [f"{found['float32']:.2%}"]
            for kind in kinds:
                one = found.get(kind)
                cells.append(f"{one['accuracy']:.2%} ({one['agreement']:.1%}, {one['sqnr']:.0f} dB)" if one else "")
            lines.append(f"| {row['network']}, {row['seed']} | {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
