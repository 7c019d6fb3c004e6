"""What an int8 file is judged by, what is advised where it fails, and what is left in float32 since a runtime errs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reconvene import deploy
from reconvene.deploy import FORMATS, Fidelity, Limits
from reconvene.deploy.advice import TRIALS, advice, remedy
from reconvene.errors import VerificationError

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

ALL = Limits()
SLOW = ("executorch", "openvino")


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


def images(count: int, channels: int = 3, size: int = 12) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def points() -> nn.Module:
    """Eight coordinates that hardly differ: the largest is decided by the last bit, and means nothing."""
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))
    )
    with torch.no_grad():
        net[4].weight.mul_(0.001)
        net[4].bias.fill_(0.5)
    return net


def int8(net: nn.Module, folder: Path, x: Tensor, **options: Any) -> deploy.Exported:
    given = {"calibration": [x], **options}
    return deploy.export(net, folder, example_inputs=x[:1], quantize="int8", **given)


def test_a_regression_is_judged_by_its_noise(tmp_path: Path) -> None:
    x = images(16)
    for task in (None, "regression"):
        checked = int8(points(), tmp_path, x, task=task).verification
        assert isinstance(checked, Fidelity) and checked.agreement is None and checked.sqnr > 30
    with pytest.raises(VerificationError, match="agreement is"):
        int8(points(), tmp_path, x, task="classification")


def test_labels_make_outputs_classes(tmp_path: Path) -> None:
    net, x = seeded(lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())), images(16)
    labels = net(x).argmax(1)
    for options in ({"calibration": [(x, labels)]}, {"data": [(x, labels)]}):
        checked = int8(net, tmp_path, x, limits=Limits(agreement=0), **options).verification
        assert isinstance(checked, Fidelity) and checked.agreement is not None and checked.reference_quality == 1.0
    for targets in (labels.float(), labels + 5, torch.randn(16, 5), labels[:, None]):
        checked = int8(net, tmp_path, x, data=[(x, targets)]).verification
        assert isinstance(checked, Fidelity) and checked.agreement is None, "these are no labels of five scores"


class TwoOutputs(nn.Module):
    """Boxes in hundreds of pixels beside small scores that int8 destroys."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.scores = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.cat([x, 3000 * torch.relu(x[:, :1])], 1)
        return 100 * self.boxes(x), self.scores(wide)


def test_no_output_hides_behind_a_larger_one(tmp_path: Path) -> None:
    net = seeded(TwoOutputs)
    with torch.no_grad():
        net.scores.weight[:, 3] = 0
    with pytest.raises(VerificationError, match=r"SQNR of output output_1 is"):
        int8(net, tmp_path, images(16), limits=Limits(sqnr=25))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_network_that_answers_one_class_is_reported(precision: str, tmp_path: Path) -> None:
    """Such as one whose batch norms have statistics of other data: it agrees with itself in every precision."""
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    net, x = seeded(lambda: nn.Sequential(*layers)), images(8)
    with torch.no_grad():
        net[4].bias[2] = 100
    if precision == "int8":
        made = int8(net, tmp_path, x, task="classification")
    else:
        made = deploy.export(net, tmp_path, example_inputs=x, data=[(x, torch.arange(8) % 4)])
    assert made.verification is not None and made.verification.agreement == 1.0
    assert "output is class 2 for every sample" in made.verification.warning and made.verification.warning in str(made)
    assert made.verification.to_dict()["warning"] == made.verification.warning


def result(sqnr: float, agreement: float | None = None, limits: Limits = ALL) -> Fidelity:
    return Fidelity("a runtime", "data", 8, sqnr, agreement, None, None, limits)


def test_advice_is_what_helped_in_the_runtime_whatever_pytorch_ranked_first() -> None:
    dB = {("a",): 3.0, ("b",): 12.0, ("c",): 6.0, ("d",): 5.0}
    alone, best = remedy(result(5.0), ["a", "b", "c", "d"], lambda names: result(dB[names]))
    assert [found.layers for found in alone] == [("b",), ("c",)], "a makes it worse, d changes nothing"
    assert best is not None and best.layers == ("b",)
    text = advice(alone, best, ("z",), "abcd")
    assert "keep_fp32=['z', 'b']" in text and "keeps the limits: 12.0 dB" in text and "a 3.0" not in text


def test_layers_are_joined_where_one_alone_is_not_enough() -> None:
    dB = {("a",): 6.0, ("b",): 7.0, ("c",): 5.5, ("b", "a"): 9.0, ("b", "a", "c"): 11.0}
    _, best = remedy(result(5.0), ["a", "b", "c"], lambda names: result(dB[names]))
    assert best is not None and best.layers == ("b", "a", "c") and not best.result.failures
    dB[("b", "a", "c")] = 4.0
    alone, best = remedy(result(5.0), ["a", "b", "c"], lambda names: result(dB[names]))
    assert best is not None and best.layers == ("b", "a")
    assert "still does not keep the limits: 9.0 dB" in advice(alone, best, (), "abc")


def test_nothing_is_advised_that_does_not_help_or_loses_agreement() -> None:
    tried: list[tuple[str, ...]] = []

    def trial(names: tuple[str, ...]) -> Fidelity | None:
        tried.append(names)
        return None if names == ("a",) else result(9.0, agreement=0.5)

    layers = [chr(ord("a") + i) for i in range(TRIALS + 3)]
    alone, best = remedy(result(5.0, agreement=0.9), layers, trial)
    assert not alone and best is None and len(tried) == TRIALS
    assert "No layer left in float32 brings it closer" in advice(alone, best, (), layers[:2])


def test_a_share_above_its_limit_does_not_forbid_an_advice() -> None:
    """One sample of hundreds answers otherwise: a layer that takes most of the noise away is named all the same."""
    _, best = remedy(result(5.0, agreement=1.0), ["a"], lambda names: result(20.0, agreement=0.997))
    assert best is not None and best.layers == ("a",)


def test_the_advice_of_an_export_keeps_the_limits_when_it_is_followed(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(9, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x))
            y = torch.cat([y, 3000 * torch.relu(x[:, :1, 2:, 2:])], 1)
            return self.c(torch.relu(self.b(y)))

    net, x = seeded(Net), images(16)
    with torch.no_grad():
        net.b.weight[:, 8] = 0
    limits = Limits(sqnr=20)
    with pytest.raises(VerificationError) as caught:
        int8(net, tmp_path, x, limits=limits)
    assert not list(tmp_path.iterdir())
    layers = re.search(r"keep_fp32=\[(.*?)\]", str(caught.value))
    assert layers is not None and "which was tried and keeps the limits" in str(caught.value)
    made = int8(net, tmp_path, x, limits=limits, keep_fp32=re.findall(r"'(.*?)'", layers[1]))
    assert isinstance(made.verification, Fidelity) and made.verification.sqnr >= 20


@pytest.mark.parametrize("format", ["onnx", "ncnn", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_a_layer_in_float32_reads_what_the_network_gives_it(format: str, tmp_path: Path) -> None:
    """ONNX Runtime's tool drops a ReLU whose result is uint8; a layer that reads past that integer still needs it."""
    if not FORMATS[format].installed:
        pytest.skip(f"the {FORMATS[format].extra} extra is not installed")
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    net, x = seeded(lambda: nn.Sequential(*layers)), images(16)
    for kept in (["2"], ["4"], ["2", "4"]):
        checked = int8(net, tmp_path, x, format=format, keep_fp32=kept).verification
        assert isinstance(checked, Fidelity) and checked.sqnr > 25, kept


@pytest.mark.parametrize(("outputs", "left"), [(16, True), (8, True), (12, False), (4, False), (1, False)])
def test_grouped_convolutions_that_ncnn_gets_wrong_stay_in_float32(outputs: int, left: bool, tmp_path: Path) -> None:
    if not FORMATS["ncnn"].installed:
        pytest.skip("the ncnn extra is not installed")
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * outputs, 10))
    grouped = nn.Conv2d(4, 4 * outputs, 3, padding=1, groups=4)
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), grouped, *head))
    made = int8(net, tmp_path, images(16), format="ncnn")
    assert isinstance(made.verification, Fidelity) and made.verification.sqnr > 25
    assert made.keep_fp32 == (("2",) if left else ())
    assert ("in float32: 2;" in "".join(made.notes)) is left and ("fp32: 2" in str(made)) is left
