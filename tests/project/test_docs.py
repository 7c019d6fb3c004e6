"""What the documentation shows works as shown."""

from __future__ import annotations

import importlib
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import reconvene as rc
from reconvene.models import MODELS
from support.paths import BENCHMARKS, ROOT

sys.path.insert(0, str(BENCHMARKS))
import pages as generated

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTENDING = sorted((ROOT / "docs" / "extending").glob("*.md"))
"""Their examples run in test_extending.py."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose_of(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that links to headings use: small letters, words joined by dashes, other signs left out."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *EXTENDING], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose_of(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists() and (not anchor or anchor in anchors(there)), target


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would, on a network that is quick to prune."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "vgg16_bn", partial(MODELS["resnet20"], width=0.25))
    names = {"model": MODELS["vgg16_bn"](), "example_inputs": torch.randn(1, 3, 32, 32)}
    for block in blocks(page, "python"):
        if "mymodels" not in block:  # the reader's own module
            exec(block.replace('"16x"', '"2x"').replace('"4x"', '"1.5x"'), names)


@pytest.mark.parametrize("name", generated.PAGES)
def test_generated_pages_are_what_the_results_give(name: str) -> None:
    assert not importlib.import_module(f"pages.{name}").update(write=False), f"python benchmarks/pages {name}"


def test_every_generated_part_has_a_module_that_writes_it() -> None:
    parts = {vars(importlib.import_module(f"pages.{name}")).get("PART") for name in generated.PAGES} - {None}
    names = {
        (page.name, name) for page in PAGES[1:] for name in re.findall(r"<!-- generated: (.+?) -->", page.read_text())
    }
    assert names == {(part.page, part.name) for part in parts}


def test_the_reference_has_every_public_name() -> None:
    page = importlib.import_module("pages.api").page()
    for name in set(rc.__all__) - {"__version__", "metrics"}:
        entry = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert len(entry.split()) > 5, name
    assert "    progress: ProgressOption = None,\n) -> Plan" in page and "- budget: limits to keep" in page
