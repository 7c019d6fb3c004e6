"""Plots as SVG files that stand alone: dots with names, on a white ground, readable in any page and theme."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

from reconvene.pages.charts import Scale, nice_ticks
from reconvene.utils.escaping import escape_html

WIDTH, HEIGHT, BOTTOM, TOP, RIGHT = 720, 420, 44, 34, 200
_COLOURS = (
    "#1b6ca8",
    "#c8553d",
    "#3a7d44",
    "#7b4ea3",
    "#b8860b",
    "#5c6770",
    "#d1495b",
    "#00798c",
    "#8a5a44",
    "#444444",
)


@dataclass(frozen=True)
class Dot:
    """One result: where it is, how far it spreads, what it belongs to, what it says, what stands beside it."""

    x: float
    y: float
    series: str
    text: str
    spread: float = 0.0
    label: str = ""


def scatter_svg(
    title: str, dots: Sequence[Dot], *, x: str, y: str, log_x: bool = True, joined: Container[str] | None = None
) -> str:
    """An SVG document. Dots of one series share a colour and a line from left to right, or only series in ``joined``.

    ``x`` and ``y`` name the axes; ``log_x`` spaces the first by ratio. The same dots give the same text.
    """
    xs, ys = [dot.x for dot in dots], [v for dot in dots for v in (dot.y - dot.spread, dot.y + dot.spread)]
    marks = nice_ticks(min(ys), max(ys))
    left = max(56, 20 + 7 * max(len(f"{mark:g}") for mark in marks))  # long numbers need room beside the axis' name
    across = _across(xs, log_x)
    up = Scale(marks[0], marks[-1])

    def to_pixels(dot_x: float, dot_y: float) -> tuple[float, float]:
        inner = WIDTH - left - RIGHT, HEIGHT - TOP - BOTTOM
        return left + inner[0] * across(dot_x) / 100, HEIGHT - BOTTOM - inner[1] * up(dot_y) / 100

    parts = [_grid(left, to_pixels(across.low, mark)[1], f"{mark:g}") for mark in marks]
    parts += [_tick(to_pixels(mark, marks[0])[0], _amount(mark)) for mark in _ticks(across)]
    for i, name in enumerate(dict.fromkeys(dot.series for dot in dots)):
        colour = _COLOURS[i % len(_COLOURS)]
        points = sorted((dot for dot in dots if dot.series == name), key=lambda dot: dot.x)
        if (joined is None or name in joined) and len(points) > 1:
            path = "L".join("{:.1f} {:.1f}".format(*to_pixels(dot.x, dot.y)) for dot in points)
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-opacity=".55"/>')
        parts += [_dot(dot, to_pixels, colour) for dot in points]
        height = TOP + 10 + 17 * i
        parts.append(f'<circle cx="{WIDTH - RIGHT + 16}" cy="{height}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 26}" y="{height + 4}">{escape_html(name)}</text>')
    middle = (left + WIDTH - RIGHT) / 2
    captions = [
        f'<text x="{left}" y="18" font-size="14" font-weight="bold">{escape_html(title)}</text>',
        f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape_html(x)}</text>',
        f'<text transform="translate(14 {(HEIGHT - BOTTOM + TOP) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape_html(y)}</text>",
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#222">\n<title>{escape_html(title)}</title>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join([*captions, *parts]) + "\n</svg>\n"
    )


def _across(xs: Sequence[float], log: bool) -> Scale:
    low, high = min(xs), max(xs)
    if log:
        room = (high / low) ** 0.06 if high > low else 1.5
        return Scale(low / room, high * room, log=True)
    room = 0.06 * (high - low) or abs(high) or 1.0
    return Scale(low - room, high + room)


def _ticks(scale: Scale) -> list[float]:
    if scale.log:
        first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
        marks = [m * 10.0**power for power in range(first, last + 1) for m in (1, 2, 5)]
        marks = [mark for mark in marks if scale.low <= mark <= scale.high]
        if len(marks) > 1:  # else the axis is shorter than from one of them to the next
            return marks
    return [mark for mark in nice_ticks(scale.low, scale.high) if scale.low <= mark <= scale.high]


def _amount(value: float) -> str:
    """A mark of an axis: ``0.05``, ``500``, ``50 k``, ``2 M``."""
    for letter, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:.3g} {letter}"
    return f"{value:.4g}"


def _dot(dot: Dot, to_pixels: object, colour: str) -> str:
    assert callable(to_pixels)
    cx, cy = to_pixels(dot.x, dot.y)
    bar = ""
    if dot.spread:
        ends = [to_pixels(dot.x, dot.y + sign * dot.spread)[1] for sign in (-1, 1)]
        bar = f'<line x1="{cx:.1f}" x2="{cx:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" stroke="{colour}"/>'
    if dot.label:
        bar += f'<text x="{cx + 7:.1f}" y="{cy - 5:.1f}" font-size="11">{escape_html(dot.label)}</text>'
    title = f"<title>{escape_html(dot.text)}</title>"
    return f'{bar}<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4" fill="{colour}">{title}</circle>'


def _grid(left: int, y: float, text: str) -> str:
    line = f'<line x1="{left}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
    return f'{line}<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _tick(x: float, text: str) -> str:
    low = HEIGHT - BOTTOM
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low}" y2="{low + 4}" stroke="#222"/>'
    return f'{line}<text x="{x:.1f}" y="{low + 17}" text-anchor="middle">{text}</text>'
