"""The table of docs/devices.md about activation memory."""

from __future__ import annotations

from memory import ASKED, RESULTS
from rows import read_rows

from pages.generated_part import GeneratedPart

PART = GeneratedPart("devices.md", "memory")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(), write=write)


def table() -> str:
    """The newest rows."""
    newest = {(row["plan"], row["precision"], row["model"], row["network"]): row for row in read_rows(RESULTS)}
    lines = ["| plan | network | predicted | the runtime's own | predicted over own |", "|" + " --- |" * 5]
    for asked in ASKED:
        for (*of, model, number), row in newest.items():
            if tuple(of) == asked:
                which = f"`{model}`" + (f", cut ({number})" if number else "")
                sizes = " | ".join(f"{row[key] / 1024:,.1f} KiB" for key in ("predicted", "planned"))
                share = row["predicted"] / row["planned"]
                lines.append(f"| {' '.join(asked)} | {which} | {sizes} | {share:.2f} |")
    return "\n".join(lines) + "\n"
