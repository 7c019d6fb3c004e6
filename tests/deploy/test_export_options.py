"""What an export can be asked for beside its format: batch, free axes, opset, float16; each seen in the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reconvene import deploy
from reconvene.deploy import FORMATS
from reconvene.deploy.runtimes.onnx.runtime import OnnxSession
from reconvene.deploy.verification import HALF_TOLERANCE
from reconvene.errors import ExportError, ModelError, UnknownNameError, VerificationError
from support.formats import require_format

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CAN = {
    "free_batch": {"nir", "onnx", "openvino"},
    "static_batch": {"onnx", "openvino", "executorch"},
    "dynamic_axes": {"onnx", "openvino"},
    "opset": {"onnx"},
    "fp16": {"onnx", "openvino", "executorch", "ncnn"},
}
ASKED: dict[str, dict[str, Any]] = {
    "free_batch": {"batch": "free"},
    "static_batch": {"batch": 4},
    "dynamic_axes": {"dynamic_axes": ("height", "width")},
    "opset": {"opset": 18},
    "fp16": {"precision": "fp16"},
}


def every(option: str) -> pytest.MarkDecorator:
    """The formats that have an option; those that take long are for the slow tests."""
    quick = {"onnx", "ncnn"}
    return pytest.mark.parametrize(
        "format",
        [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in sorted(CAN[option])],
    )


def dense() -> nn.Module:
    """Convolutions only: any size will do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1)
        )
    return net.eval()


class Remembering(nn.Module):
    """A detection head's idiom: a grid is made anew where the shape, batch and all, is another than the last."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.shape = nn.Conv2d(3, 6, 1), torch.Size()
        self.grid = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.shape != y.shape:
            self.grid, self.shape = torch.arange(y.shape[2] * y.shape[3]).float(), y.shape
        return y.flatten(2) + self.grid


class Fixed(nn.Module):
    """Computes for just so many examples."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.inner = batch, nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.reshape(self.batch, 3, 16, 16)).mean((2, 3))


def test_the_table_of_options_is_what_the_runtimes_say() -> None:
    for option, formats in CAN.items():
        assert {name for name, runtime in FORMATS.items() if option in runtime.takes} == formats


@pytest.mark.parametrize("option", list(ASKED))
def test_a_format_without_an_option_says_so_and_which_has_it(option: str, tmp_path: Path) -> None:
    for format in set(FORMATS) - CAN[option]:
        with pytest.raises(ExportError, match=rf"{format} files.*Formats that do: {', '.join(sorted(CAN[option]))}"):
            deploy.export(dense(), tmp_path, format=format, example_inputs=X, **ASKED[option])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": 0}, ExportError, "1 at least"),
        ({"batch": "dynamic"}, UnknownNameError, "auto, free, static"),
        ({"dynamic_axes": ["depth"]}, UnknownNameError, "height, width"),
        ({"precision": "fp8"}, UnknownNameError, "fp16, fp32"),
        ({"task": "detection"}, UnknownNameError, "classification, image-to-image"),
        ({"tolerance": 2.0}, ExportError, "between 0 and 1"),
        ({"precision": "fp16", "quantize": "int8", "calibration": [X]}, ExportError, "made from float32"),
        ({"tolerance": 0.1, "quantize": "int8", "calibration": [X]}, ExportError, "int8 has limits"),
    ],
)
def test_options_that_mean_nothing(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        deploy.export(dense(), tmp_path, example_inputs=X, **options)


@pytest.mark.parametrize("net", [Remembering(), Fixed(1)], ids=["remembers its shape", "reshapes to one"])
def test_a_batch_that_cannot_be_free_is_the_one_of_the_example_with_a_note(net: nn.Module, tmp_path: Path) -> None:
    made = deploy.export(net, tmp_path, example_inputs=X)
    assert made.batch == 1 and made.to_dict()["batch"] == 1
    assert made.verification is not None and [row.batch_size for row in made.verification.rows] == [1]
    assert "static batch of 1, that of the example" in made.notes[0] and f"note: {made.notes[0]}" in str(made)
    assert made.to_dict()["notes"] == list(made.notes)
    assert OnnxSession(made.path, 1).session.get_inputs()[0].shape[0] == 1
    with pytest.raises((ExportError, ModelError)):
        deploy.export(net, tmp_path, example_inputs=X, batch="free", name="free")


def test_a_free_batch_is_free_and_has_nothing_to_say(tmp_path: Path) -> None:
    made = deploy.export(dense(), tmp_path, example_inputs=X)
    assert (
        made.batch is None
        and made.notes == ()
        and not isinstance(OnnxSession(made.path, 1).session.get_inputs()[0].shape[0], int)
    )


@pytest.mark.parametrize("format", ["ncnn", pytest.param("executorch", marks=pytest.mark.slow)])
def test_formats_of_a_batch_of_one_are_verified_one_example_at_a_time(format: str, tmp_path: Path) -> None:
    require_format(format)
    net = nn.Sequential(Fixed(1), nn.ReLU())
    made = deploy.export(net, tmp_path, format=format, example_inputs=X, verify=True)
    assert made.batch == 1 and [row.batch_size for row in made.verification.rows] == [1]
    assert made.verification.rows[0].batches == 24


@every("static_batch")
def test_a_static_batch_on_demand(format: str, tmp_path: Path) -> None:
    require_format(format)
    net = dense()
    made = deploy.export(net, tmp_path, format=format, example_inputs=X, batch=4)
    assert made.batch == 4 and made.notes == () and [row.batch_size for row in made.verification.rows] == [4]
    x = torch.randn(8, 3, 16, 16)
    (output,) = deploy.run_file(made.path, x).values()  # taken apart
    torch.testing.assert_close(output, net(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="takes batches of 4, but was given 6"):
        deploy.run_file(made.path, x[:6])


@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_int8_of_a_static_batch_uses_every_sample(format: str, tmp_path: Path) -> None:
    require_format(format)
    images = torch.randn(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"quantize": "int8", "calibration": [images]}
    net = Fixed(4)
    nn.init.ones_(net.inner.bias)  # a mean of noise alone would be no signal
    made = deploy.export(net, tmp_path, format=format, example_inputs=images[:4], **options)
    assert made.batch == 4 and made.verification.samples == 10 and made.verification.sqnr > 20


@every("dynamic_axes")
def test_free_height_and_width_are_verified_at_two_sizes(format: str, tmp_path: Path) -> None:
    require_format(format)
    net = dense()
    made = deploy.export(net, tmp_path, format=format, example_inputs=X, dynamic_axes=("height", "width"))
    assert made.dynamic_axes == ("height", "width") and "verified at 3x48x80 too" in made.notes[0]
    x = torch.randn(3, 3, 24, 40)
    (output,) = deploy.run_file(made.path, x).values()
    torch.testing.assert_close(output, net(x), rtol=1e-4, atol=1e-5)


def test_a_size_that_cannot_be_free_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(dense(), nn.Flatten(), nn.Linear(256, 3))
    with pytest.raises(ExportError, match=r"size of its example only|no free height"):
        deploy.export(net, tmp_path, example_inputs=X, dynamic_axes=("height", "width"))
    with pytest.raises(ExportError, match="no input with a height"):
        deploy.export(nn.Linear(4, 3), tmp_path, example_inputs=torch.randn(2, 4), dynamic_axes=("height",))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_wrong_at_the_second_size_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxSession.run
    monkeypatch.setattr(
        OnnxSession, "run", lambda self, x: {name: value + (x.shape[2] != 16) for name, value in run(self, x).items()}
    )
    with pytest.raises(VerificationError, match="disagrees"):
        deploy.export(dense(), tmp_path, example_inputs=X, dynamic_axes=("height",))


def test_an_opset_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    import onnx

    made = deploy.export(dense(), tmp_path, example_inputs=X, opset=18)
    assert made.opset == 18 and onnx.load(made.path).opset_import[0].version == 18
    for opset in (9, 99):
        with pytest.raises(ExportError, match=rf"opset {opset}: the exporter left"):
            deploy.export(nn.Sequential(dense(), nn.AdaptiveAvgPool2d(1)), tmp_path, example_inputs=X, opset=opset)


@every("fp16")
def test_float16_keeps_inputs_and_outputs_and_halves_the_weights(format: str, tmp_path: Path) -> None:
    require_format(format)
    net = nn.Sequential(dense(), nn.Flatten(), nn.Linear(256, 400)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    full = deploy.export(net, tmp_path, format=format, example_inputs=X, verify=False)
    made = deploy.export(net, tmp_path, format=format, example_inputs=X, precision="fp16")
    assert made.precision == "fp16" and ".fp16." in made.path.name and made.bytes < 0.6 * full.bytes
    assert 1e-5 < made.verification.max_rel_error < made.verification.tolerance == HALF_TOLERANCE
    (output,) = deploy.run_file(made.path, X).values()
    assert output.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(VerificationError, match="tolerance 1e-06"):
        deploy.export(net, tmp_path, format=format, example_inputs=X, precision="fp16", tolerance=1e-6)


@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_model_in_float16_gives_a_file_in_float16(format: str, tmp_path: Path) -> None:
    require_format(format)
    net = dense().half()
    made = deploy.export(net, tmp_path, format=format, example_inputs=X.half())
    assert made.precision == "fp16" and made.path.name.startswith("model.")
    assert made.verification.tolerance == HALF_TOLERANCE
    with pytest.raises(ExportError, match=r"holds float16 weights. Pass model.float\(\)"):
        deploy.export(net, tmp_path, format=format, example_inputs=X.half(), precision="fp32")
    with pytest.raises(ExportError, match="bfloat16"):
        deploy.export(dense().bfloat16(), tmp_path, format=format, example_inputs=X.bfloat16())
