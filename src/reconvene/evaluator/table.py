"""The one way results print: a title, a header, rows; plain text that reads the same in a terminal and in a log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Cell = str | int | float | None


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str = "", foot: Sequence[str] = ()) -> str:
    """Rows under a header, numbers to the right, ``None`` as a dash; no colours, no terminal width: always the same."""
    body = [list(row) for row in rows]
    texts = [[_text(cell) for cell in row] for row in body]
    widths = [max(len(line[i]) for line in [list(header), *texts]) for i in range(len(header))]
    right = [all(not isinstance(row[i], str) for row in body) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * w for w in widths)
    return "\n".join([*([title] if title else []), line(header), rule, *(line(t) for t in texts), *foot])


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
