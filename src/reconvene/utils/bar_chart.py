"""Bars as an SVG file that stands alone: drawn without any other package, readable on a light and a dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconvene.errors import ReconveneError
from reconvene.utils.escaping import escape_html
from reconvene.utils.files import write_atomic

WIDTH, ROW, TOP, CHARACTER = 720, 20, 34, 7
LONGEST_NAME = 40
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1d2125}.whole{fill:#dfe4e8}.part{fill:#0b66b0}"
    "@media (prefers-color-scheme:dark){text{fill:#e8eaec}.whole{fill:#353d45}.part{fill:#62b0f5}}"
)


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, what is written behind it, and the length of the track that it lies on."""

    name: str
    value: float
    text: str
    of: float | None = None


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars from one scale, the first on top. Notebooks show it; ``save`` writes the file.

    >>> chart = BarChart("widths", [Bar("conv1", 16, "16 of 64", of=64)])
    >>> "conv1" in chart.svg
    True
    """

    title: str
    bars: Sequence[Bar]

    def __repr__(self) -> str:
        return f"BarChart({self.title!r}, {len(self.bars)} bars)"

    def _repr_svg_(self) -> str:
        return self.svg

    @property
    def svg(self) -> str:
        """The picture as text of an SVG file. The same bars give the same text."""
        left = 12 + CHARACTER * max((len(_shortened(bar.name)) for bar in self.bars), default=0)
        right = 12 + CHARACTER * max((len(bar.text) for bar in self.bars), default=0)
        full = max((max(bar.value, bar.of or 0.0) for bar in self.bars), default=0.0) or 1.0
        scale = max(WIDTH - left - right, 40) / full
        lines = [self._bar(bar, TOP + ROW * i, left, scale) for i, bar in enumerate(self.bars)]
        height = TOP + ROW * len(self.bars) + 6
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n'
            f"<title>{escape_html(self.title)}</title><style>{_STYLE}</style>\n"
            f'<text x="4" y="18" font-weight="bold">{escape_html(self.title)}</text>\n'
            + "\n".join(lines)
            + "\n</svg>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the SVG file; returns its path. Raises ReconveneError where it cannot be written."""
        path = Path(path)
        write_atomic(path, self.svg.encode(), error=ReconveneError, what="the plot")
        return path

    @staticmethod
    def _bar(bar: Bar, y: float, left: float, scale: float) -> str:
        track = max(bar.of or 0.0, bar.value) * scale
        rectangle = '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="12" rx="2"/>'
        drawn = rectangle.format("whole", left, y, track) if bar.of is not None else ""
        return (
            f"<g><title>{escape_html(bar.name)}: {escape_html(bar.text)}</title>"
            f'<text x="{left - 6:.0f}" y="{y + 10:.0f}" text-anchor="end">{escape_html(_shortened(bar.name))}</text>'
            f"{drawn}{rectangle.format('part', left, y, bar.value * scale)}"
            f'<text x="{left + track + 6:.1f}" y="{y + 10:.0f}">{escape_html(bar.text)}</text></g>'
        )


def _shortened(name: str) -> str:
    """The end of a long name, which tells layers apart."""
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
