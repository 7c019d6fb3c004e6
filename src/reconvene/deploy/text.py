"""Results as plain text that reads the same in a terminal and in a log."""

from __future__ import annotations

from collections.abc import Container, Sequence


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Container[int] = (),
    title: str = "",
    foot: str = "",
) -> str:
    """Rows under a header, the columns in ``right`` set to the right."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    lines = [line(header), "  ".join("-" * w for w in widths), *(line(row) for row in rows)]
    return "\n".join([*([title] if title else []), *lines, *([foot] if foot else [])])
