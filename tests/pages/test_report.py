"""The report: one page, no request, nothing injected, readable in light and dark and on a phone."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reconvene.artifact import ExportRecord
from reconvene.artifact.curve import PruningCurve, StepRecord
from reconvene.costs import short_text
from reconvene.data import Preprocessing
from reconvene.errors import ArtifactError
from reconvene.pages import ReportData, render, write_report
from reconvene.pages.charts import nice_ticks
from reconvene.pages.markup import Html, join, tag
from reconvene.pages.measurements import portable
from reconvene.surgery.bits import BitPlan, LayerBits
from reconvene.surgery.cut import PlanRow
from reconvene.utils import numbers

VGG = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG_PRUNED = (32, 56, 96, 112, 192, 176, 160, 168, 96, 64, 48, 40, 72)


def training(start: float, end: float, epochs: int) -> list[dict[str, Any]]:
    def row(epoch: int) -> dict[str, Any]:
        done = 1 - math.exp(-4 * epoch / epochs)
        accuracy = start + (end - start) * done
        return {
            "event": "epoch",
            "epoch": epoch,
            "train_loss": 2.2 - 2.0 * done,
            "train_accuracy": accuracy,
            "test_loss": 2.1 - 1.9 * done * end,
            "test_accuracy": accuracy,
            "seconds": 1.5,
        }

    return [{"event": "start", "epochs": epochs}, *(row(epoch) for epoch in range(1, epochs + 1))]


def bench_row(runtime: str, variant: str, median: float, speedup: float) -> dict[str, Any]:
    return {
        "runtime": runtime,
        "variant": variant,
        "median": median,
        "quarter": median * 0.97,
        "three_quarters": median * 1.06,
        "min_wall": median * 0.95,
        "speedup": speedup,
        "speedup_quarter": speedup * 0.96,
        "speedup_three_quarters": speedup * 1.04,
        "rounds": 30,
    }


def verification(batch: int, error: float) -> dict[str, Any]:
    return {
        "batch_size": batch,
        "batches": 8,
        "max_abs_error": error,
        "max_rel_error": error / 8,
        "agreement": 1.0,
        "where": "",
        "predictions": 96,
        "same": 96,
    }


def export(file: str) -> ExportRecord:
    rows = [verification(size, 2.4e-6 * size) for size in (1, 3, 8)]
    checked = {"runtime": "onnxruntime", "data": "real data", "samples": 96, "tolerance": 1e-4, "rows": rows}
    return ExportRecord(file, 3_650_000, format="onnx", verification=checked)


def vgg() -> ReportData:
    why = ("limited by the budget, rounded up to {}", "widened to fill the budget", "limited by the budget")
    groups = [
        PlanRow(
            f"features.{3 * i}",
            dense,
            width,
            keep="",
            loss=2.9 * width / dense + 0.07 * (i % 3),
            density=width / dense,
            why=why[i % 3].format(width),
        )
        for i, (dense, width) in enumerate(zip(VGG, VGG_PRUNED, strict=True))
    ]
    return ReportData(
        model="vgg16_bn",
        costs={
            "dense": {"params": 14_728_266, "macs": 313_474_048, "size": 58_960_000, "peak_memory": 524_288},
            "pruned": {"params": 908_411, "macs": 87_300_112, "size": 3_650_000, "peak_memory": 360_448},
        },
        groups=groups,
        pinned=[{"name": "classifier", "width": 10, "why": "output of the model"}],
        budget={"params": "16.21x", "macs": 0.3},
        limits={"params": 908_591.4, "macs": 94_042_214.4},
        spread={f"features.{3 * i}": 0.93 + 0.013 * ((7 * i) % 13) for i in range(13)} | {"classifier": 1.02},
        training={"dense": training(0.1, 0.9861, 12), "pruned": training(0.1, 0.9789, 12)},
        bench={
            "rows": [
                bench_row("onnxruntime", "dense", 6.31e-3, 1.0),
                bench_row("onnxruntime", "pruned", 2.05e-3, 3.08),
                bench_row("eager", "dense", 9.87e-3, 1.0),
                bench_row("eager", "pruned", 4.61e-3, 2.14),
            ],
            "baseline": "dense",
            "batch": 1,
            "threads": 1,
            "clock": "thread",
            "machine": {
                "processor": "AMD EPYC 9654 96-Core Processor",
                "architecture": "x86_64",
                "system": "Linux 6.8",
            },
        },
        exports=[export("dense.onnx"), export("model.onnx")],
        timings={
            "structure": 0.21,
            "saliency": 1.9,
            "sensitivity": 0.03,
            "allocation": 0.11,
            "surgery": 0.06,
            "rectify": 0.4,
        },
        criterion="synflow",
        evaluator="density",
        rectify="reinit",
        dataset="handwritten digits (scikit-learn)",
        examples=1_438,
        seed=0,
        command="reconvene run vgg16_bn --data digits --params 16.21x --epochs 12 --seed 0 -o /home/someone/out",
        versions={"reconvene": "0.1.0", "torch": "2.15.0", "onnxruntime": "1.31.1"},
        machine={"processor": "AMD EPYC 9654 96-Core Processor", "cores": 2, "python": "3.11.9"},
        date="2026-11-21T09:06:00+00:00",
    )


def fifty() -> ReportData:
    """A deep network with long names, many groups, a layer out of the band and no training."""
    data = vgg()
    names = [f"encoder.stages.{i // 12}.blocks.{i % 12}.conv{1 + i % 3}.depthwise_separable" for i in range(50)]
    data.model = "timm:mobilenetv4_conv_small_050.e3000_r224_in1k"
    data.groups = [
        PlanRow(
            n,
            64 * 2 ** (i // 12),
            8 + 5 * i,
            keep="",
            loss=1 + i % 7 / 3,
            why="balanced with " + names[i - 1],
        )
        for i, n in enumerate(names)
    ]
    data.pinned = [
        {"name": n, "width": 7, "why": "its channels are mixed by an operator without a rule"} for n in names[:6]
    ]
    data.spread = {n: 0.95 + 0.02 * (i % 6) for i, n in enumerate(names)} | {names[7]: 0.61, names[30]: 1.9}
    data.training, data.exports, data.scores = {}, [], {}
    data.notes = [
        "The operator aten::grid_sampler has no rule, so its channels stay.",
        "The budget leaves no room below 3.1x.",
    ]
    return data


class Page(HTMLParser):
    """Elements of a page, and whether they are closed in the order they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((name, dict(attrs)))
        if name not in ("meta", "link", "wbr"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words += data


def test_summary_is_in_numbers_and_headings_follow_the_data() -> None:
    page = Page(render(vgg()))
    words = " ".join(page.words.replace("\u202f", " ").split())
    for text in (
        "16.21× fewer parameters",
        "14.7 M → 908 k",
        "3.59× less",
        "16.15× smaller",
        "3.08× faster",
        "An epoch takes 2.70 TFLOPs dense and 753 GFLOPs pruned (3.59× fewer)",
    ):
        assert text in words
    for text in (
        "6.31 ms → 2.05 ms in onnxruntime",
        "dense 97.0 %, −0.7 points",
        "2.7 s",
        "32 of 64",
        "kept, 99.9 % used",
        "2026-11-21 09:06 UTC",
    ):
        assert text in words, text
    for heading in (
        "Budget",
        "Latency",
        "Widths, before and after",
        "Signal through the layers",
        "Training",
        "Verified",
    ):
        assert heading in words
    data = vgg()
    assert data.exports[0].verification is not None
    data.exports[0].verification["warning"] = "output: the same for every sample"
    assert "output: the same for every sample." in Page(render(data)).words
    assert "14 of 14 layers are within 0.8 to 1.25" in words
    deep = Page(render(fifty())).words
    assert "48 of 50 layers" in deep and "conv2.depthwise_separable (0.61)" in deep and "Training" not in deep


def test_absent_sections_are_left_out() -> None:
    page = Page(render(ReportData(model="net")))
    assert [name for name, _ in page.seen if name in ("section", "table", "svg", "h2")] == []
    assert "net" in page.words
    only = Page(render(ReportData(model="net", scores={"pruned": 0.5})))
    assert "50.0" in only.words and not any(name == "section" for name, _ in only.seen)


def test_steps_of_a_trained_network_are_shown() -> None:
    data = vgg()
    data.trained, data.training = True, {}
    moments = [{"cut": 0.31, "repaired": 0.75, "tuned": 0.842}, {"cut": 0.11, "repaired": 0.62, "tuned": 0.713}]
    records = [StepRecord(n + 1, {"params": 1000 - n}, **scores) for n, scores in enumerate(moments)]
    data.curve = PruningCurve(tuple(records), 1, "accuracy", dense=0.871, floor=0.8)
    words = Page(render(data)).words
    for text in ("Steps", "84.2", "11.0", "floor of 80.0", "is that of step 1", "of a trained network"):
        assert text in words
    assert "before any training" not in words


def timed_files(*, refused: bool = False) -> ReportData:
    """Four files in ONNX Runtime, the fastest of them in int8."""
    data = vgg()
    assert data.bench is not None
    sizes = {"dense": 58_900_000, "pruned": 3_640_000}
    for row in data.bench["rows"]:
        row |= {"size": sizes[row["variant"]], "precision": "fp32", "agreement": 1.0}
        row["quality"] = 0.97 if row["variant"] == "dense" else 0.96
    quantised = bench_row("onnxruntime", "pruned", 0.6e-3, 10.5)
    data.bench["rows"].append(quantised | {"precision": "int8", "size": 950_000, "agreement": 0.99, "quality": 0.972})
    if refused:
        data.refused = {"model.int8.onnx": "int8 keeps 62 % of the classes"}
    return data


def test_the_verdict_is_the_fastest_file_that_was_kept_with_what_it_costs() -> None:
    words = Page(render(timed_files())).words.replace("\u202f", " ")
    assert "Best file: onnxruntime in int8, 10.50× faster than the dense network in float32" in words
    assert "+0.2 points of accuracy, 928 KiB." in words
    refused = render(timed_files(refused=True))
    words = Page(refused).words.replace("\u202f", " ")
    assert "Best file: onnxruntime in float32, 3.08× faster" in words and "−1.0 points of accuracy" in words
    assert 'class="bad">−1.0' in refused and 'class="good">3.08' in refused
    assert "model.int8.onnx: refused, and no file was kept. int8 keeps 62 % of the classes" in words
    assert "refused: below its limits" in words
    slow = timed_files()
    assert slow.bench is not None
    slow.bench["rows"] = [row | {"speedup": 0.8} for row in slow.bench["rows"] if row["precision"] == "fp32"]
    assert "1.25× slower" in Page(render(slow)).words


def test_a_dense_network_that_was_never_trained_is_no_yardstick_of_quality() -> None:
    data = timed_files()
    data.training = {"pruned": data.training["pruned"]}
    assert data.bench is not None
    for row in data.bench["rows"]:
        if row["variant"] == "dense":
            row |= {"quality": 0.1, "agreement": 0.2}
    words = Page(render(data)).words.replace("\u202f", " ")
    verdict = words[words.index("Best file:") : words.index("Channels were removed")]
    assert "accuracy 97.2 %" in verdict and "points" not in verdict
    assert "refused: below its limits" not in words


def test_a_network_that_kept_its_weights_is_not_called_untrained() -> None:
    data = vgg()
    data.trained, data.as_cut = True, {"dense": 0.98, "pruned": 0.42}
    words = Page(render(data)).words.replace("\u202f", " ")
    assert "From the trained network to the smaller one" in words and "neither fade nor explode" not in words
    assert "right after the cut 42.0 %" in words


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        (("dense",), "The dense network was trained, and the cut one not tuned"),
        (("pruned",), "The network was tuned"),
        (("dense", "pruned"), "The dense network was trained, and the cut one tuned"),
    ],
)
def test_the_report_says_which_network_was_tuned(variants: tuple[str, ...], said: str) -> None:
    data = vgg()
    data.trained, data.training = True, {name: data.training["pruned"] for name in variants}
    words = Page(render(data)).words
    assert said in words and ("tuned" in said) == ("tuned" in words)


def test_a_refused_file_beside_that_of_an_earlier_export_is_told_from_it() -> None:
    data = timed_files(refused=True)
    data.exports = [*data.exports, ExportRecord("model.int8.onnx", 950_000, precision="int8")]
    words = Page(render(data)).words
    assert "model.int8.onnx: refused, and the file of an earlier export stays" in words
    assert "refused: below its limits" not in words


def test_a_budget_is_held_against_what_was_measured_afterwards() -> None:
    data = vgg()
    limit = data.limits["params"]
    data.measured = {"params": 1.1 * limit}
    words = Page(render(data)).words
    assert "exceeded" in words and "measured afterwards" in words
    data.measured = {"params": data.costs["pruned"]["params"]}
    assert "measured afterwards" not in Page(render(data)).words


def test_inputs_and_outputs_are_shown() -> None:
    data = vgg()
    assert "Inputs and outputs" not in Page(render(data)).words
    classes = tuple(f"class{number}" for number in range(25))
    data.preprocessing = Preprocessing((3, 32, 48), (0.5, 0.25, 0.125), (1, 1, 1), classes)
    words = Page(render(data)).words
    assert "[N, 3, 32, 48], float32, RGB" in words and "0.5000, 0.2500, 0.1250" in words
    assert "class19, ..." in words and "class20" not in words


def test_sections_come_in_the_order_of_a_decision() -> None:
    data = timed_files(refused=True)
    headings = re.findall("<h2>(.*?)</h2>", render(data))
    expected = ["Budget", "Formats and precisions", "Latency", "What int8 kept", "Training", "Widths, before and after"]
    assert headings[: len(expected)] == expected and headings[-1] == "How to reproduce"


def test_a_cost_that_did_not_change_says_so() -> None:
    data = vgg()
    data.costs["pruned"]["peak_memory"] = data.costs["dense"]["peak_memory"]
    assert "unchanged" in Page(render(data)).words and "1.00×" not in Page(render(data)).words


def test_everything_is_escaped() -> None:
    evil = "<script>alert(1)</script>\"'&"
    data = vgg()
    data.model = data.command = data.criterion = data.evaluator = data.dataset = data.date = data.rectify = evil
    data.groups[0].name = data.groups[0].why = evil
    data.pinned, data.notes = [{"name": evil, "width": 1, "why": evil}], [evil]
    data.spread = {evil: 2.0}
    data.exports[0] = replace(data.exports[0], file=evil)
    assert data.exports[0].verification is not None
    data.budget["params"] = data.exports[0].verification["data"] = evil
    data.versions, data.machine, data.timings = {evil: evil}, {"processor": evil}, {evil: 1.0}
    data.training = {evil: training(0, 1, 3)}
    assert data.bench is not None
    data.bench["rows"][0].update(runtime=evil, variant=evil)
    data.bench["machine"]["processor"] = evil
    data.limits[evil] = 1.0
    page = Page(render(data))
    assert sum(name == "script" for name, _ in page.seen) == 1, "our own, and no other"
    assert not any(key.startswith("on") for _, attrs in page.seen for key in attrs)
    assert page.words.count("<script>alert(1)</script>\"'&") > 20
    for _, attrs in page.seen:
        assert set(attrs) <= {
            "lang",
            "id",
            "charset",
            "http-equiv",
            "content",
            "name",
            "rel",
            "href",
            "class",
            "role",
            "scope",
            "colspan",
            "style",
            "aria-label",
            "aria-hidden",
            "tabindex",
            "viewbox",
            "preserveaspectratio",
            "d",
            "vector-effect",
            "x",
            "y",
            "x1",
            "x2",
            "y1",
            "y2",
            "width",
            "height",
        }


def test_markup_escapes_whatever_is_not_markup() -> None:
    assert tag("p", "a < b & c", tag("b", "x"), None, [1, "&"], class_="q\"'<") == (
        '<p class="q&quot;&#x27;&lt;">a &lt; b &amp; c<b>x</b>1&amp;</p>'
    )
    assert join(Html("<i>")) == "<i>" and tag("meta", charset="utf-8", hidden=None) == '<meta charset="utf-8">'
    assert tag("p", "<b>" + tag("i", "x")) == "<p>&lt;b&gt;&lt;i&gt;x&lt;/i&gt;</p>"  # joined by +, it is text again


def test_page_is_self_contained_accessible_and_without_paths(tmp_path: Path) -> None:
    data = vgg()
    path = write_report(data, tmp_path / "deep" / "report.html")
    text = path.read_text(encoding="utf-8")
    assert text == render(data) and len(text) < 100_000
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    page = Page(text)
    assert "default-src 'none'" in next(a["content"] or "" for n, a in page.seen if a.get("http-equiv"))
    assert not any(key in attrs for _, attrs in page.seen for key in ("src", "srcset", "xlink:href", "action"))
    links = [attrs["href"] or "" for _, attrs in page.seen if "href" in attrs]
    assert links[0] == "data:,"
    assert [link.removeprefix("#") for link in links[1:]] == [a["id"] for n, a in page.seen if n == "section"]
    script = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1 and f"script-src &#x27;sha256-{digest}&#x27;" in text, "no other script may run"
    assert "url(" not in text and "@import" not in text and "http" not in text.replace("http-equiv", "")
    assert "/home" not in text and "-o out" in page.words
    for name, attrs in page.seen:
        if name == "svg":
            assert attrs.get("aria-label") or attrs.get("aria-hidden")
        if name == "th":
            assert attrs["scope"] in ("row", "col", "rowgroup")
    names = [name for name, _ in page.seen]
    assert names.count("h1") == 1 and names.count("table") == names.count("thead") and names.count("title") > 3


def test_absolute_paths_are_cut_and_nothing_else() -> None:
    assert (
        portable("reconvene run a.b:net --data /data/sets/cifar10 -o ~/out")
        == "reconvene run a.b:net --data cifar10 -o out"
    )
    assert portable("reconvene run torchvision:resnet18 --data ../shared/data --params=16x") == (
        "reconvene run torchvision:resnet18 --data ../shared/data --params=16x"
    )
    assert portable("run --out=/tmp/x/") == "run --out=x" and portable("train a/b/c") == "train a/b/c"


def test_a_loss_is_not_sold_as_a_gain() -> None:
    data = vgg()
    assert data.bench is not None
    data.bench["rows"][1]["speedup"] = 0.8
    data.costs["pruned"]["peak_memory"] = 2 * data.costs["dense"]["peak_memory"]
    data.spread = {"a": 1.0, "b": 0.004, "dead": 0.0}
    words = Page(render(data)).words
    assert "1.25× slower" in words and "2.00× more" in words and "1 of 3 layers" in words and "dead (0.00)" in words


def test_exceeded_budget_is_reported() -> None:
    data = vgg()
    data.limits["params"], data.limits["latency"] = 900_000.0, 1e-3
    words = Page(render(data)).words
    assert "exceeded" in words and "not measured" in words


def test_numbers_read_like_numbers() -> None:
    plain = [
        text.replace("\u202f", " ")
        for text in (
            numbers.format_count(908_411),
            numbers.format_count(9_999),
            numbers.format_count(999_600),
            numbers.memory(262_144),
            numbers.memory(3_650_000),
            numbers.seconds(8.5e-4),
            numbers.seconds(0.00421),
            numbers.seconds(200),
            numbers.ratio(16.211),
            numbers.ratio(163.4),
            numbers.points(-0.0049),
            numbers.points(0.0001),
            short_text("macs", 313_474_048),
            numbers.digits(0.000412),
        )
    ]
    assert plain == [
        "908 k",
        "9,999",
        "1.00 M",
        "256 KiB",
        "3.48 MiB",
        "850 µs",
        "4.21 ms",
        "3 min 20 s",
        "16.21×",
        "163×",
        "−0.5 points",
        "±0.0 points",
        "313 M MACs",
        "0.000412",
    ]


@pytest.mark.parametrize(
    ("low", "high"), [(0.1, 0.986), (0.0, 0.0), (2.1, 2.1), (-3.0, 17.0), (1e-6, 2e-6), (97.2, 97.9)]
)
def test_ticks_enclose_the_data_and_are_few(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write the report"):
        write_report(vgg(), tmp_path / "file" / "report.html")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ArtifactError, match="cannot write the report"):
        write_report(vgg(), tmp_path / "report.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "report.html"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser test")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine: no browser test")
    flags = (
        "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
        "disable-sync"
    )
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=[f"--{flag}" for flag in flags.split()])
        yield started
        started.close()


@pytest.mark.parametrize("sample", [vgg, fifty, lambda: with_int8()], ids=["vgg", "fifty", "int8"])
def test_in_a_browser(browser: Any, sample: Any, tmp_path: Path) -> None:
    path = write_report(sample(), tmp_path / "report.html")
    backgrounds = set()
    for scheme in ("light", "dark"):
        for width in (1280, 360):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            messages: list[str] = []
            requests: list[str] = []
            page.on("console", lambda message, into=messages: into.append(message.text))
            page.on("pageerror", lambda error, into=messages: into.append(str(error)))
            page.on("request", lambda request, into=requests: into.append(request.url))
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(
                "[...document.querySelectorAll('section, .card, .chart')].every(e => e.scrollWidth < e.clientWidth + 2)"
            )
            assert messages == [] and [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
            contrast = page.evaluate(CONTRAST)
            assert min(contrast.values()) >= 4.5, contrast
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.close()
    assert len(backgrounds) == 2


CONTRAST = """() => {
  const luminance = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!colour.endsWith(', 0)')) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = {};
  for (const e of document.querySelectorAll(
    'h1, h2, .headline, p, th, td, small, span.figure, summary, dd, dt, li, strong, code')) {
    const [a, b] = [luminance(getComputedStyle(e).color), luminance(behind(e))].sort((x, y) => y - x);
    const key = e.tagName + '.' + e.className;
    found[key] = Math.min(found[key] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return found;
}"""


def with_int8() -> ReportData:
    data = vgg()
    assert data.bench is not None
    for i, row in enumerate(data.bench["rows"]):
        row.update(precision="fp32", size=1000 * (i + 1), agreement=1.0, quality=0.98)
    slow = bench_row("onnxruntime", "pruned", 1.1e-3, 5.7)
    data.bench["rows"].append({**slow, "precision": "int8", "size": 321, "agreement": 0.913, "quality": 0.9})
    data.bench["left_out"] = {"ncnn pruned int8": "no layer that <b>it</b> knows"}
    limits = {"agreement": 0.95, "sqnr": 10.0, "accuracy_drop": 0.02}
    found = {"runtime": "onnxruntime", "data": "real data", "samples": 96, "sqnr": 31.4, "agreement": 0.985}
    checked = {**found, "quality": 0.97, "reference_quality": 0.98, "limits": limits, "warning": ""}
    data.exports.append(replace(export("model.int8.onnx"), keep_fp32=("features.0",), verification=checked))
    return data


def test_int8_is_a_row_of_its_own_and_never_taken_for_the_pruned_network() -> None:
    page, plain = render(with_int8()), render(vgg())
    assert "3.08" in page.split("<section")[0], "the card tells float32 beside float32"
    for said in ("Formats and precisions", "321", "91.3", "What int8 kept", "31.4", "features.", "A ring marks"):
        assert said in page
    assert "<b>it</b>" not in page and "Formats and precisions" not in plain and "What int8 kept" not in plain
    assert page.count("model.") > plain.count("model."), "the int8 file is told by name"


def test_files_are_held_against_the_limits_that_they_were_exported_with() -> None:
    data = with_int8()
    checked = data.exports[-1].verification
    assert checked is not None
    assert "disagrees with PyTorch" in render(data) and "refused: below" not in render(data)
    checked["limits"] = {**checked["limits"], "agreement": 0.9}
    assert "disagrees with PyTorch" not in render(data) and "A ring marks" not in render(data)


def test_the_chart_of_files_marks_runtimes_and_agreement() -> None:
    data = with_int8()
    assert data.bench is not None
    one = render(data)
    assert one.count("mark pruned") == 4 and one.count("mark other1 ringed") == 2, "by time, and by agreement"
    assert f"{numbers.share(0.913)} agreement" in one and one.count("<ul") == render(vgg()).count("<ul") + 2, (
        "colours, and shapes of two runtimes"
    )
    for row in data.bench["rows"]:
        row.update(runtime="ncnn", agreement=None)
    other = render(data)
    assert other.count("<ul") == one.count("<ul") - 1, "one runtime needs no shapes"
    assert "agreement of every file" in one and "agreement of every file" not in other and "Below," not in other
    assert other.count("mark pruned") == 2, "two pruned files by time, none by agreement"


def test_a_chart_of_one_point_has_no_axis_to_divide_by() -> None:
    data = with_int8()
    assert data.bench is not None
    data.bench["rows"] = [{**data.bench["rows"][0], "size": 10}, {**data.bench["rows"][1], "size": 10}]
    assert "Formats and precisions" in render(data)


@pytest.mark.parametrize(
    ("value", "limit", "texts"),
    [
        (94.98, 95.0, ("94.98", "95.00")),
        (94.0, 95.0, ("94.0", "95.0")),
        (95.0, 95.0, ("95.0", "95.0")),
        (9.9999999, 10.0, ("9.9999999", "10.0000000")),
    ],
)
def test_a_value_and_its_limit_have_enough_digits_to_differ(value: float, limit: float, texts: tuple[str, str]) -> None:
    assert numbers.distinct(value, limit) == texts


def test_one_is_no_plural() -> None:
    assert [numbers.plural(count, "epoch") for count in (0, 1, 2, 1000)] == [
        "0 epochs",
        "1 epoch",
        "2 epochs",
        "1,000 epochs",
    ]


def test_bits_are_drawn_by_layer_and_channel() -> None:
    layers = {"stem.0.weight": LayerBits(0, {2: "0-2,7", 4: "3", 8: "4-6"})}
    page = render(ReportData("net", bits=BitPlan(layers)))
    assert "3 of 8 bits" in page and "4 of 2 bits" in page
    strip = page.partition("Bits of its channels")[2].partition("</table>")[0]
    for text in ("channels 0 to 2: 2 bits", "channel 3: 4 bits", "channels 4 to 6: 8 bits", "channel 7: 2 bits"):
        assert text in strip
    assert "4.5 on average" in page
    assert "Bits, by layer" not in render(ReportData("net"))
    assert "Activations have 8 bits" in page
    layers["head.weight"] = LayerBits(0, {8: "0-3"})
    page = render(ReportData("net", bits=BitPlan(layers, inputs={"stem.0": 4})))
    table = page.partition("Bits of its channels")[2].partition("</table>")[0]
    assert [table.count(f"<td>{read} bits</td>") for read in (2, 4, 8)] == [0, 1, 1]
