"""What all pages share: one file that needs nothing else, light and dark, wide and narrow."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources

from reconvene._version import __version__
from reconvene.pages.markup import Child, Html, document, raw_script, raw_style, tag
from reconvene.utils import numbers


def html_page(title: str, *parts: Child, date: str | None = None) -> str:
    """A whole page with our style and script in it. The browser itself refuses every request that it would make.

    Args:
        title: of the window.
        parts: what the page shows, in order.
        date: ISO 8601, for the last line.
    """
    css, script = _text("style.css"), _text("script.js")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy(script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} · Reconvene"),
        raw_style(css),
    )
    footer = tag("footer", f"Made by Reconvene {__version__}", f" on {numbers.moment(date)}" if date else None, ".")
    return document(head, tag("body", tag("main", *parts, footer), raw_script(script)))


def policy(script: str) -> str:
    """What the browser may do: show our style and pictures from the page itself, and run this script and no other."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def _text(name: str) -> str:
    return resources.files("reconvene.pages").joinpath(name).read_text(encoding="utf-8")


def contents(parts: Sequence[Html]) -> Html | None:
    """Links to the sections of a page; ``None`` where there are so few that one sees them all."""
    sections = [match for part in parts if (match := re.match(r'<section id="([^"]*)"><h2>(.*?)</h2>', part))]
    links = [tag("li", tag("a", Html(match[2]), href=f"#{match[1]}")) for match in sections]
    return tag("nav", tag("ul", links), aria_label="Contents") if len(links) > 3 else None


def inline_svg(svg: str) -> Html:
    """A plot of our own that stands alone, in the colours of the page."""
    for fixed, of_the_page in _COLOURS.items():
        svg = svg.replace(fixed, of_the_page)
    return Html(svg)


_COLOURS = {
    'fill="#fff"': 'fill="var(--card)"',
    'fill="#222"': 'fill="currentColor"',
    'stroke="#222"': 'stroke="currentColor"',
    'stroke="#ddd"': 'stroke="var(--rule)"',
}
"""Colours of plots that stand alone, and what they become in a page, which may be dark."""
