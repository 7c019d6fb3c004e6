"""Write docs/api.md, the reference of the public names, from their signatures and docstrings.

python benchmarks/pages api
"""

from __future__ import annotations

import inspect
import re

import reconvene as rc
from pages.generated_part import DOCS, update_files

PAGE = DOCS / "api.md"
HEAD = """# API reference

Generated from the docstrings (`python benchmarks/pages api`, which `make docs` runs). All names are those of
`import reconvene as rc`; every example runs in the test suite.
"""


def page() -> str:
    """The whole page."""
    names = [name for name in rc.__all__ if name != "__version__" and not inspect.ismodule(getattr(rc, name))]
    return HEAD + "".join(f"\n## {name}\n\n{entry(name, getattr(rc, name))}" for name in sorted(names, key=str.lower))


def entry(name: str, thing: object) -> str:
    """Signature and docstring of one name."""
    parts = []
    if not (inspect.isclass(thing) and issubclass(thing, Exception)) and callable(thing):
        signature = str(inspect.signature(thing)).replace("'", "")
        parts.append(f"```text\nrc.{name}{wrapped(signature)}\n```")
    parts.append(described(inspect.getdoc(thing) or ""))
    return "\n\n".join(parts) + "\n"


def wrapped(signature: str) -> str:
    """A signature with one parameter a line where it is long."""
    if len(signature) < 80:
        return signature
    inside, _, result = signature[1:].rpartition(")")
    parameters = re.split(r", (?=[*\w]+(?:: |=|,|$)|\*)", inside)
    return "(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f"){result}"


def described(text: str) -> str:
    """A docstring as Markdown: paragraphs, arguments as a list, examples as sessions."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        head, _, body = block.partition("\n")
        if block.startswith(">>> "):
            blocks.append(f"```pycon\n{block.rstrip()}\n```")
            continue
        block = block.replace("``", "`")
        if re.fullmatch(r"(Args|Raises|Returns|Attributes):", head):
            body = body.replace("``", "`")
            items = re.split(r"\n(?=    \S)", "\n" + inspect.cleandoc(body).replace("\n", "\n    ").join(["    ", ""]))
            lines = [" ".join(item.split()) for item in items if item.strip()]
            blocks.append(f"**{head[:-1]}**\n\n" + "\n".join(f"- {line}" for line in lines))
        else:
            blocks.append(" ".join(block.split()) if "\n- " not in block else block)
    return "\n\n".join(blocks)


def update(*, write: bool = True) -> bool:
    """Write the page; returns whether it was old."""
    return update_files({PAGE: page()}, write=write)
