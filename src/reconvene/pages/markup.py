"""HTML that cannot be injected into: whatever is not ``Html`` already is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from reconvene.utils.escaping import escape_html


class Html(str):
    """Text that is markup already. Only this module makes it."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]
VOID = frozenset({"img", "link", "meta", "wbr"})
_Attribute = str | int | float | bool | None


def tag(name: str, /, *children: Child, **attributes: _Attribute) -> Html:
    """``<name attribute="value">children</name>``.

    Attributes: ``class_`` is ``class``, ``aria_label`` is ``aria-label``; None and False are left out.
    Children are escaped unless they are ``Html``; lists are joined; None is nothing.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Children one after another, escaped unless they are ``Html``."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, (str, int)):
            parts.append(escape_html(str(child)))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def name(text: str, **attributes: _Attribute) -> Html:
    """The name of a layer or a model, which may break after its dots and dashes rather than anywhere."""
    pieces = re.split(r"(?<=[._:/-])", text)
    broken = [child for piece in pieces if piece for child in (piece, Html("<wbr>"))]
    return tag("span", broken[:-1], class_="name", **attributes)


def raw_style(css: str) -> Html:
    """Our own style sheet as an element; style has no escapes, so nothing of a user's may be in it."""
    if "</" in css:
        raise ValueError("a style sheet cannot hold an end tag")
    return Html(f"<style>{css}</style>")


def raw_script(text: str) -> Html:
    """Our own script as an element; nothing of a user's may be in it."""
    if "</" in text:
        raise ValueError("a script cannot hold an end tag")
    return Html(f"<script>{text}</script>")


def document(*children: Child) -> Html:
    """A whole page around ``<head>`` and ``<body>``."""
    return Html(f"<!doctype html>\n{tag('html', *children, lang='en')}\n")


def _attribute(key: str, value: _Attribute) -> str:
    if value is None or value is False:
        return ""
    written = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {written}"
    return f' {written}="{escape_html(str(value))}"'
