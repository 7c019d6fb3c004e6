"""Names of a user's in Markdown, HTML and SVG: shown as they are, taken for nothing else."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # comes with rich
from torch import nn

import reconvene as rc
from reconvene.artifact.card import card
from reconvene.experiments.plot import Dot, scatter_svg
from reconvene.models import ModelSource
from reconvene.pages.markup import document, tag
from reconvene.pages.markup import name as layer_name
from reconvene.surgery import Plan
from reconvene.utils.escaping import markdown, markdown_code, markdown_table, printable

EVIL = [
    "[x](javascript:alert(1))",
    "![x](https://evil/x.png)",
    "<script>alert(1)</script>",
    "<javascript:alert(1)>",
    "`code` and ``more``",
    "a | b",
    r"a \| b",
    "line\n\n# heading\n\n- list",
    "---\nlayout: evil",
    "*bold* __bold__ ~~gone~~",
    "&#106;avascript",
    "[x]: javascript:alert(1)",
    "trailing backslash \\",
    "nul\x00 bell\x07 escape\x1b[31m return\r",
    "half \ud800 of a pair, \udcff",
    "not \ufffe a \uffff character",
]
RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(text: str) -> str:
    return " ".join(printable(text).split())


@pytest.mark.parametrize("text", EVIL, ids=ascii)
def test_text_in_markdown_is_text(text: str) -> None:
    page = Page(RENDERER.render(f"before {markdown(text)} after"))
    assert page.tags == ["p"] and page.text.strip() == f"before {shown(text)} after"


@pytest.mark.parametrize("text", EVIL, ids=ascii)
def test_text_in_a_table_stays_in_its_cell(text: str) -> None:
    page = Page(RENDERER.render(markdown_table(["a", "b"], [[markdown(text), markdown_code(text)], ["1", "2"]])))
    assert page.tags.count("td") == 4 and set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.text.count(shown(text)) == 2


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_out_of_markdown_as_it_went_in(text: str) -> None:
    page = Page(RENDERER.render(f"before {markdown(text)} after"))
    assert page.tags == ["p"] and " ".join(page.text.split()) == " ".join(["before", *shown(text).split(), "after"])


def test_plain_names_are_code() -> None:
    for name in ("layer1.0.conv1", "torchvision:resnet18", "params 16x", "apache-2.0"):
        assert markdown_code(name) == f"`{name}`"


@pytest.mark.parametrize("text", EVIL, ids=ascii)
def test_a_model_card_holds_names_as_text(text: str) -> None:
    pytest.importorskip("huggingface_hub")
    plain = small_plan()
    evil = replace(plain, rows=[replace(row, name=text) for row in plain.rows], budget={"params": text})
    page = RENDERER.render(card(artifact_of(evil, text), repo_id="me/net", license=text).split("\n---\n", 1)[1])
    harmless = card(artifact_of(plain, "x"), repo_id="me/net", license="mit")
    tags = Page(page).tags
    assert not {"script", "a", "img", "strong", "em", "s"} & set(tags)
    assert [tags.count(t) for t in ("h1", "h2", "td", "th", "table")] == [
        Page(RENDERER.render(harmless.split("\n---\n", 1)[1])).tags.count(t) for t in ("h1", "h2", "td", "th", "table")
    ]


def artifact_of(plan: Plan, name: str) -> Any:
    """What a card reads of an artifact, with one name everywhere: some of these no artifact would be read with."""
    teacher = SimpleNamespace(model=name, score=0.75)
    training = {"task": "classification", "headline": "accuracy", "score": 0.5, "metrics": {"accuracy": 0.5}}
    training |= {"loss": 1.0, "dataset": name, "epochs": 1, "parts": {name: 0.25}, "teacher": teacher}
    return SimpleNamespace(
        plan=plan,
        source=ModelSource(f"user.module:{name}", {"flavour": name}),
        training=SimpleNamespace(**training),
        preprocessing=SimpleNamespace(shape=(3, 8, 8), mean=(0.0,), std=(1.0,), classes=(name, "b")),
        pruning=None,
        written_by="1",
    )


def small_plan() -> Plan:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    return rc.plan(model, torch.randn(1, 3, 8, 8), rc.Budget(params="2x"), verify=False)


@pytest.mark.parametrize("text", EVIL, ids=ascii)
def test_a_page_can_be_written_and_shows_the_text(text: str) -> None:
    page = str(document(tag("body", tag("p", text, title=text), layer_name(text))))
    assert page.encode("utf-8")
    assert set(Page(page).tags) == {"html", "body", "p", "span", "wbr"} - ({"wbr"} if "<wbr>" not in page else set())
    assert Page(page).text.count(printable(text)) == 2


@pytest.mark.parametrize("text", EVIL, ids=ascii)
def test_a_plot_is_well_formed_whatever_it_is_about(text: str) -> None:
    dots = [Dot(1.0, 2.0, text, text, label=text), Dot(2.0, 3.0, text, text)]
    root = ElementTree.fromstring(scatter_svg(text, dots, x=text, y=text).encode("utf-8"))
    words = [element.text for element in root.iter() if element.text]
    assert printable(text) in words
    assert {element.tag.partition("}")[2] for element in root.iter()} <= {
        *("svg", "title", "rect", "text", "line", "path", "circle"),
    }
