"""A part of a page of the documentation that is generated from results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def update_files(texts: dict[Path, str], *, write: bool) -> bool:
    """Write the files whose text is another one; returns whether there was one. Without ``write`` only look."""
    old = {path: text for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text}
    for path, text in old.items() if write else ():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return bool(old)


@dataclass(frozen=True)
class GeneratedPart:
    """The text between ``<!-- generated: NAME -->`` and ``<!-- end: NAME -->`` in a page of the docs."""

    page: str
    name: str

    def filled(self, text: str) -> dict[Path, str]:
        """The page with ``text`` in the part."""
        path, begin, end = DOCS / self.page, f"<!-- generated: {self.name} -->\n", f"<!-- end: {self.name} -->"
        before, rest = path.read_text(encoding="utf-8").split(begin)
        return {path: before + begin + text + rest[rest.index(end) :]}

    def update(self, text: str, *, write: bool = True) -> bool:
        """Put ``text`` there; returns whether the page held another one. Without ``write`` only look."""
        return update_files(self.filled(text), write=write)
