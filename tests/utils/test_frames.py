"""Results as tables: HTML that nothing can be injected into, data frames with numbers, and pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.utils.bar_chart import Bar, BarChart
from reconvene.utils.frames import Frame


def network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)), torch.randn(1, 3, 8, 8)


def test_results_are_short_in_a_prompt_and_tables_in_a_notebook() -> None:
    model, x = network()
    plan = rc.plan(model, x, rc.Budget(params="2x"))
    results = (plan, rc.groups(model, x), rc.sensitivity(model, x), rc.measure(model, x, latency=False))
    for result in results:
        assert len(repr(result)) < 200 and "\n" not in repr(result)
        ElementTree.fromstring(result._repr_html_())
    assert "params 2.27x" in repr(plan) and "1 groups, 7 of 16 channels" in repr(plan)
    assert '<td style="text-align:right">7</td>' in plan._repr_html_()
    assert results[1][0].name == "0", "groups are a list as before"


def test_data_frames_hold_numbers() -> None:
    pytest.importorskip("pandas")
    model, x = network()
    frame = rc.plan(model, x, rc.Budget(params="2x")).to_pandas()
    assert list(frame.columns) == ["group", "dense", "width", "loss", "why"]
    assert frame["dense"].sum() == 16 and frame["width"].sum() == 7
    costs = rc.measure(model, x, latency=False).to_pandas()
    assert costs.set_index("cost")["value"]["parameters"] == 1608
    assert len(rc.groups(model, x).to_pandas()) == 3


def test_pictures_are_svg_that_can_be_kept(tmp_path: Path) -> None:
    model, x = network()
    plan = rc.plan(model, x, rc.Budget(params="2x"))
    small, dense = (rc.measure(network, x, latency=False) for network in (plan.apply(model), model))
    charts = (plan.plot(), rc.groups(model, x).plot(), rc.sensitivity(model, x).plot(), small.plot(dense))
    for chart in charts:
        root = ElementTree.fromstring(chart._repr_svg_())
        assert len(root.findall("{http://www.w3.org/2000/svg}g")) == len(chart.bars) > 0
    assert charts[0].save(tmp_path / "plan.svg").read_text().startswith("<svg")
    widths = [
        float(part.get("width", "0")) for part in ElementTree.fromstring(charts[0].svg).iter() if part.get("class")
    ]
    assert widths[1] / widths[0] == pytest.approx(7 / 16, abs=0.01), "the kept channels on the track of all"


def test_names_of_layers_are_text_and_no_markup() -> None:
    name = "<script>alert(1)</script>"
    assert "<script>" not in Frame((name,), [[name]], title=name, foot=[name]).to_html()
    assert "<script>" not in BarChart(name, [Bar(name, 1, name)]).svg
