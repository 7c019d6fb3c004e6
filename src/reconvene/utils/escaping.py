"""Names of a user's as text that a page, a table and a terminal can show, and that nothing takes for markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# Control characters but tab and line feed, halves of surrogate pairs, and what XML calls no characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_MARKUP = re.compile(r"[\\`*_\[\]<>&~$]")
_PLAIN = re.compile(r"[\w ./:@=+,()-]+")


def printable(text: str) -> str:
    r"""The text with an escape such as ``\x1b`` in place of each character that no encoding or page can hold."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def escape_html(text: str) -> str:
    """Text for HTML and SVG, which hold neither control characters nor halves of surrogate pairs."""
    return html.escape(printable(text))


def markdown(text: object) -> str:
    """Text for a paragraph or a cell of a Markdown table, in which nothing is a link, a tag, code or an emphasis."""
    line = " ".join(printable(str(text)).split())
    return _MARKUP.sub(lambda match: f"\\{match[0]}", line).replace("|", "&#124;")


def markdown_code(text: object) -> str:
    """A name as code; as plain text where a character in it could end the code or the cell of a table."""
    return f"`{text}`" if _PLAIN.fullmatch(str(text)) and str(text).strip() == str(text) else markdown(text)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
