"""Charts of marks: every mark has a colour and a shape, panels under one another share the axis across."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reconvene.pages.charts import Scale, nice_ticks
from reconvene.pages.markup import Child, Html, tag

SHAPES = (
    "M5 0A5 5 0 1 1 5 10A5 5 0 1 1 5 0Z",  # circle
    "M.6 .6H9.4V9.4H.6Z",  # square
    "M5 0L10 9.4H0Z",  # triangle
    "M5 -.8L10.8 5L5 10.8L-.8 5Z",  # diamond
    "M3.2 0H6.8V3.2H10V6.8H6.8V10H3.2V6.8H0V3.2H3.2Z",  # cross
    "M0 .6H10L5 10Z",  # triangle on its point
)
APART, APART_ACROSS = 9.0, 24.0
"""Percent of a side between two labels of an axis, at least."""
TENS = tuple(10.0**power for power in range(-9, 13))
BYTE_TICKS = tuple(10.0**power * 1024.0**unit for unit in range(4) for power in range(3))
"""What the round values of an axis are once, twice and five times of."""


@dataclass(frozen=True)
class Mark:
    """One mark in every panel: what it says of itself, where it is across, and up in each panel (None: not in it).

    ``class_`` is the colour and ``meaning`` its entry in the legend, as ``shape`` is for the shape; ``ringed`` warns.
    """

    text: str
    x: float
    ys: Sequence[float | None]
    class_: str
    meaning: str
    shape: str
    ringed: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel: its heading, how a value up is written, logarithmic or with an axis that ends at ``top``."""

    heading: str
    written: Callable[[float], str]
    log: bool = True
    top: float | None = None


def scatter_chart(
    title: str,
    description: str,
    marks: Sequence[Mark],
    panels: Sequence[Panel],
    *,
    x: Callable[[float], str],
    units: Sequence[float] = TENS,
) -> Html:
    """A chart of ``marks`` in ``panels``; the axis across is logarithmic, in ``units``, and ``x`` writes a value of it.

    A panel in which no mark has a value is left out; shapes are told in the legend where there are several.
    """
    across = _around([mark.x for mark in marks])
    shapes = {name: SHAPES[i % len(SHAPES)] for i, name in enumerate(dict.fromkeys(mark.shape for mark in marks))}
    ticks = _round_values(across, x, units, min_gap=APART_ACROSS)
    drawn = [
        _panel(panel, [(mark, y) for mark in marks if (y := mark.ys[i]) is not None], shapes, across, ticks)
        for i, panel in enumerate(panels)
        if any(mark.ys[i] is not None for mark in marks)
    ]
    return tag(
        "figure",
        tag("figcaption", title),
        _legend(
            [(meaning, SHAPES[0], class_) for meaning, class_ in dict.fromkeys((m.meaning, m.class_) for m in marks)]
        ),
        _legend([(name, path, "plain") for name, path in shapes.items()]) if len(shapes) > 1 else None,
        tag("div", drawn, role="img", aria_label=f"{title}. {description}"),
        class_="chart marks",
    )


def _panel(
    panel: Panel,
    placed: Sequence[tuple[Mark, float]],
    shapes: dict[str, str],
    across: Scale,
    ticks: Sequence[tuple[float, str]],
) -> Html:
    values = [y for _, y in placed]
    if panel.log:
        up = _around(values)
        levels = _round_values(up, panel.written, TENS, min_gap=APART)
    else:
        round_values = nice_ticks(min(values), max([*values, *([] if panel.top is None else [panel.top])]))
        up = Scale(round_values[0], round_values[-1] if panel.top is None else panel.top)
        levels = [(up(value), _short(panel.written(value))) for value in round_values if value <= up.high]
    lines = [
        *(_line(position, flat=True) for position, _ in levels),
        *(_line(position, flat=False) for position, _ in ticks),
    ]
    grid = tag("svg", lines, viewBox="0 0 100 100", preserveAspectRatio="none")
    # The light ones first: a warning must not hide under a mark that has nothing to say.
    order = sorted(placed, key=lambda pair: pair[0].ringed)
    dots = [_placed(mark, shapes[mark.shape], across(mark.x), up(y)) for mark, y in order]
    left = tag("div", [tag("span", text, style=f"bottom:{position:.2f}%") for position, text in levels], class_="y")
    below = tag("div", [tag("span", text, style=f"left:{position:.2f}%") for position, text in ticks], class_="x round")
    area = tag("div", tag("div", grid, dots, class_="field"), class_="area" if panel.log else "area low")
    return tag("div", tag("p", panel.heading, class_="label"), tag("div", left, area, below, class_="plot"))


def _placed(mark: Mark, path: str, x: float, y: float) -> Html:
    class_ = f"mark {mark.class_}{' ringed' if mark.ringed else ''}"
    return tag("span", _shape(path), class_=class_, style=f"left:{x:.2f}%;bottom:{y:.2f}%", title=mark.text)


def _shape(path: str) -> Html:
    return tag("svg", tag("path", d=path), viewBox="-2 -2 14 14", aria_hidden="true")


def _legend(entries: Sequence[tuple[str, str, str]]) -> Html:
    """What the colours, or the shapes, mean."""
    items = [tag("li", tag("span", _shape(path), class_=f"key {class_}"), name) for name, path, class_ in entries]
    return tag("ul", items, class_="legend")


def _around(values: Sequence[float]) -> Scale:
    """A logarithmic scale with room for a mark at both ends."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.05, 1.15)
    return Scale(low / room, high * room, log=True)


def _round_values(
    scale: Scale, written: Callable[[float], str], units: Sequence[float], *, min_gap: float
) -> list[tuple[float, str]]:
    """Once, five times and twice the units: those on a logarithmic axis that have room beside the ones before."""
    labels: list[tuple[float, str]] = []
    for value in (factor * unit for factor in (1, 5, 2) for unit in units):
        position = scale(value)
        if 0 <= position <= 100 and all(abs(position - neighbour) >= min_gap for neighbour, _ in labels):
            labels.append((position, _short(written(value))))
    return sorted(labels)


def _short(text: str) -> str:
    """A round value without zeros after its point."""
    return re.sub(r"\.0+(?!\d)", "", text)


def _line(position: float, *, flat: bool) -> Child:
    coordinate = f"{100 - position:.2f}" if flat else f"{position:.2f}"
    ends = (
        {"x1": "0", "x2": "100", "y1": coordinate, "y2": coordinate}
        if flat
        else {"x1": coordinate, "x2": coordinate, "y1": 0, "y2": 100}
    )
    return tag("line", **ends, class_="grid", vector_effect="non-scaling-stroke")
