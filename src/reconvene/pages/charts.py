"""Charts as SVG without words in it: labels are HTML around it, so that they keep their size on a phone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reconvene.pages.markup import Child, Html, tag


@dataclass(frozen=True)
class ChartLine:
    """One line of a chart: points ``(x, y)`` in the data's units, and the class that colours it."""

    name: str
    points: Sequence[tuple[float, float]]
    class_: str


@dataclass(frozen=True)
class Scale:
    """From values to percent of the chart's side: call it."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where ``value`` is, from 0 at ``low`` to 100 at ``high``."""
        low, high, position = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return 100 * (position - low) / (high - low) if high > low else 50.0


def lines(
    title: str,
    description: str,
    series: Sequence[ChartLine],
    *,
    x: str,
    y: Callable[[float], str],
    ticks: Callable[[float], str],
) -> Html:
    """A line chart whose legend tells every line's last value.

    ``x`` names the axis across, ``y`` writes a value, ``ticks`` one of the round values on the axis.
    """
    xs = [point[0] for line in series for point in line.points]
    ys = [point[1] for line in series for point in line.points]
    marks = nice_ticks(min(ys), max(ys))
    across, up = Scale(min(xs), max(xs)), Scale(marks[0], marks[-1])
    drawn = [
        tag("path", d=_path(line.points, across, up), class_=f"line {line.class_}", vector_effect="non-scaling-stroke")
        for line in reversed(series)  # the first, dashed where it is the dense one, on top
    ]
    dots = [
        _dot(
            across(line.points[-1][0]),
            up(line.points[-1][1]),
            f"dot {line.class_}",
            f"{line.name}: {y(line.points[-1][1])}",
        )
        for line in series
    ]
    points = [
        _dot(across(at), up(value), f"dot hit {line.class_}", f"{line.name}, {x} {at:g}: {y(value)}")
        for line in series
        for at, value in line.points[:-1]
    ]
    legend = tag(
        "ul",
        [tag("li", _sample(line.class_), line.name, " ", tag("strong", y(line.points[-1][1]))) for line in series],
        class_="legend",
    )
    first, last = min(xs), max(xs)
    below = [tag("span", f"{x} {first:g}"), tag("span", f"{last:g}") if last > first else None]
    plot = _plot(
        title, description, [_grid(up, marks), drawn, points, dots], [(up(mark), ticks(mark)) for mark in marks], below
    )
    return tag("figure", tag("figcaption", title), legend, plot, class_="chart")


def dots_in_band(
    title: str, description: str, values: Sequence[tuple[str, float]], *, band: tuple[float, float]
) -> Html:
    """One dot a name from left to right on a logarithmic axis around 1, with the band that is aimed at behind them."""
    finite = [value for _, value in values if value > 0 and math.isfinite(value)]
    edge = max([1.4, *(max(value, 1 / value) * 1.08 for value in finite)])
    up = Scale(1 / edge, edge, log=True)
    top, bottom = 100 - up(band[1]), 100 - up(band[0])
    marks: list[Child] = [
        tag("rect", x="0", y=f"{top:.2f}", width="100", height=f"{bottom - top:.2f}", class_="band"),
        _rule(up(1.0), "rule"),
    ]
    for i, (name, value) in enumerate(values):
        inside = band[0] <= value <= band[1]
        clipped = min(max(value, 1 / edge), edge) if math.isfinite(value) and value > 0 else 1 / edge
        x = 100 * (i + 0.5) / len(values)
        marks.append(_dot(x, up(clipped), "dot pruned" if inside else "dot outside", f"{name}: {value:.3f}"))
    ticks = _spaced_labels([1.0, *band, 0.1, 10.0, 0.5, 2.0, 0.01, 100.0, 0.001, 1000.0], up)
    below = [tag("span", "input"), tag("span", "output")]
    return tag("figure", tag("figcaption", title), _plot(title, description, marks, ticks, below), class_="chart")


def bar(value: float, full_scale: float, class_: str, *, of: float | None = None) -> Html:
    """A horizontal bar ``value`` long on a track ``of`` long. ``full_scale`` fills the cell; the text is beside it."""
    full = max(full_scale, 1e-12)
    track = 100 * (full_scale if of is None else of) / full
    inner = tag("span", style=f"width:{100 * value / max(full_scale if of is None else of, 1e-12):.2f}%", class_=class_)
    return tag(
        "span", tag("span", inner, class_="track", style=f"width:{track:.2f}%"), class_="bar", aria_hidden="true"
    )


def nice_ticks(low: float, high: float, *, about: int = 4) -> list[float]:
    """Round values that enclose ``[low, high]``, roughly ``about`` steps."""
    if high <= low:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - pad, high + pad
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _plot(
    title: str, description: str, marks: Child, labels: Sequence[tuple[float, str]], below: Sequence[Html | None]
) -> Html:
    svg = tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        marks,
        viewBox="0 0 100 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{title}. {description}",
    )
    left = tag(
        "div",
        [tag("span", text, style=f"bottom:{position:.2f}%") for position, text in labels],
        class_="y",
        aria_hidden="true",
    )
    return tag(
        "div", left, tag("div", svg, class_="area"), tag("div", *below, class_="x", aria_hidden="true"), class_="plot"
    )


def _spaced_labels(values: Sequence[float], up: Scale, *, min_gap: float = 9.0) -> list[tuple[float, str]]:
    """The first of these values that have room beside those before them."""
    chosen: list[tuple[float, str]] = []
    for value in values:
        position = up(value)
        if 0 <= position <= 100 and all(abs(position - neighbour) >= min_gap for neighbour, _ in chosen):
            chosen.append((position, f"{value:g}"))
    return chosen


def _grid(up: Scale, ticks: Sequence[float]) -> list[Html]:
    return [_rule(up(tick), "grid") for tick in ticks]


def _rule(height: float, class_: str) -> Html:
    y = f"{100 - height:.2f}"
    return tag("line", x1="0", x2="100", y1=y, y2=y, class_=class_, vector_effect="non-scaling-stroke")


def _dot(x: float, y: float, class_: str, text: str) -> Html:
    """A line without length and with round ends: unlike a circle it stays round however the chart is stretched."""
    path = f"M{x:.2f} {100 - y:.2f}h.001"
    return tag("path", tag("title", text), d=path, class_=class_, vector_effect="non-scaling-stroke")


def _path(points: Sequence[tuple[float, float]], across: Scale, up: Scale) -> str:
    return "M" + "L".join(f"{across(x):.2f} {100 - up(y):.2f}" for x, y in points)


def _sample(class_: str) -> Html:
    """The stroke of a line, for the legend."""
    stroke = tag("path", d="M1 4H23", class_=f"line {class_}")
    return tag("svg", stroke, viewBox="0 0 24 8", class_="sample", aria_hidden="true")
