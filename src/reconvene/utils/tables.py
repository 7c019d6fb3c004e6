"""The one way results print: a title, a header, rows; plain text that reads the same in a terminal and in a log."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

Cell = str | int | float | None


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    right: Container[int] = (),
    title: str = "",
    foot: Sequence[str] = (),
) -> str:
    """Rows under a header; no colours, no terminal width: always the same.

    Args:
        header: names of the columns.
        rows: cells; floats show four digits, integers are grouped by thousands, ``None`` is a dash.
        right: columns of ready-made text to set to the right; columns of numbers are set so anyway.
        title: a line above.
        foot: lines below.
    """
    body = [list(row) for row in rows]
    texts = [[cell_text(cell) for cell in row] for row in body]
    widths = [max(len(line[i]) for line in [list(header), *texts]) for i in range(len(header))]
    flush = [i in right or all(not isinstance(row[i], str) for row in body) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, flush, strict=True))
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * w for w in widths)
    return "\n".join([*([title] if title else []), line(header), rule, *(line(t) for t in texts), *foot])


def cell_text(cell: Cell) -> str:
    """A cell as a table shows it: four digits of a float, integers by thousands, a dash for ``None``."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return cell if isinstance(cell, str) else f"{cell:,}"


def smaller(dense: float, pruned: float) -> str:
    """How many times smaller a cost has become: ``16.21x``, ``unchanged``, ``1.09x larger``."""
    if pruned <= 0:
        return "unchanged" if dense == pruned else "to nothing"
    if dense == pruned:
        return "unchanged"
    if dense <= 0:
        return "from nothing"
    return f"{dense / pruned:.2f}x" if pruned < dense else f"{pruned / dense:.2f}x larger"


def times(ratio: float, less: str, more: str) -> str:
    """How many times less something has become, in words: ``2.00x faster``, ``unchanged``, ``1.09x slower``."""
    if f"{ratio:.2f}" == "1.00":
        return "unchanged"
    return f"{ratio:.2f}x {less}" if ratio > 1 else f"{1 / ratio:.2f}x {more}"


def faster(speedup: float) -> str:
    """A speed-up as ``3.08x``, a slow-down as ``1.09x slower``."""
    return f"{speedup:.2f}x" if speedup >= 0.995 else f"{1 / speedup:.2f}x slower"
