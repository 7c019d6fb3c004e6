"""Every format: what is exported computes what the network computes, in float32 and in int8, and says so when not."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reconvene import deploy
from reconvene.deploy import FORMATS, Limits
from reconvene.errors import (
    DataError,
    ExportError,
    MissingExtraError,
    ModelError,
    UnknownNameError,
    VerificationError,
)
from support.format_cells import measured
from support.format_nets import NAMES, calibrating, digits, images, labelled, trained
from support.small_modules import SingularValues


@pytest.fixture
def format(request: pytest.FixtureRequest) -> str:
    """A format, where its runtime is installed."""
    runtime = FORMATS[request.param]
    if not runtime.installed:
        own = ": it wants another torch, so `make test-litert` runs this" if request.param == "litert" else ""
        pytest.skip(f"the {runtime.extra} extra is not installed{own}")
    return str(request.param)


TIMED = sorted(name for name, runtime in FORMATS.items() if runtime.timed)
every_format = pytest.mark.parametrize("format", TIMED, indirect=True)
every_format_some_slowly = pytest.mark.parametrize(
    "format",
    [pytest.param(name, marks=[pytest.mark.slow] if name == "executorch" else []) for name in TIMED],
    indirect=True,
)
"""For tests that export so often that ExecuTorch alone takes a minute."""


REFUSED = {("unet", "litert"): "UNet cannot be quantised for LiteRT: torchao's quantiser stops at"}
"""What a format's own quantiser cannot do in int8, and how it is said; should it be able to one day, this fails."""


def check(name: str, format: str, folder: Path) -> None:
    """Float32 within tolerance at batch 1 and 3, and int8 above the thresholds on trained weights."""
    found = measured(name, trained(name), format, folder)
    fp32, int8 = found["fp32"], found["int8"]
    assert "refused" not in fp32, found
    assert all(error <= FORMATS[format].tolerance for error in fp32["errors"].values())
    if (name, format) in REFUSED:
        assert REFUSED[name, format] in int8["refused"] and "in int8 to another format" in int8["refused"]
        assert [file.name for file in folder.iterdir()] == fp32["files"], "nothing half-written"
        return
    assert "refused" not in int8, found
    assert int8["samples"] == len(digits().test.images)
    assert int8["agreement"] >= 0.95 and int8["quality"] >= int8["reference_quality"] - 0.02
    assert int8["reference_quality"] > 0.8, "on a network that learned nothing agreement says nothing"
    assert 10 < int8["sqnr"] < 80, "an endless SQNR would mean that nothing was quantised"
    suffix = FORMATS[format].suffix
    assert (fp32["files"][0], int8["files"][0]) == (f"model{suffix}", f"model.int8{suffix}")
    names = sorted(file.name for file in folder.iterdir())
    assert names == sorted((*fp32["files"], *int8["files"])), "nothing else is left behind"


@every_format
def test_a_pruned_trained_network_in_every_format(format: str, tmp_path: Path) -> None:
    check("resnet8", format, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NAMES)
@every_format
def test_every_network_in_every_format(name: str, format: str, tmp_path: Path) -> None:
    check(name, format, tmp_path)


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(*layers).eval()


@every_format
@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_a_relative_folder(format: str, int8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program of others that an export calls finds its files, wherever it runs."""
    monkeypatch.chdir(tmp_path)
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"quantize": "int8", "calibration": [x], "limits": Limits(agreement=0)} if int8 else {}
    made = deploy.export(small(), Path("deep/er"), format=format, example_inputs=x[:1], **options)
    assert made.path.exists() and made.path.parent == Path("deep/er")
    assert sorted(file.name for file in (tmp_path / "deep/er").iterdir()) == sorted(file.name for file in made.files)


class Wild(nn.Module):
    """A channel whose weights and activations are far larger than the rest, in a layer called ``wild``."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.wild = nn.Conv2d(9, 8, 3, padding=1)
            self.head = nn.Linear(8, 10)
        with torch.no_grad():
            self.wild.weight[:, 8] = 0  # what it reads there is huge, and of no consequence

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = torch.cat([y, 3000.0 * torch.relu(x[:, :1])], 1)
        return self.head(torch.relu(self.wild(y)).mean((2, 3)))


@every_format_some_slowly
def test_the_layer_that_hurts_is_named_and_can_be_left_in_float32(format: str, tmp_path: Path) -> None:
    net, x = Wild(), images(1)
    asked = {"format": format, "example_inputs": x, "quantize": "int8", "calibration": [images(32)]}
    limits = Limits(agreement=0.0, sqnr=20.0)
    # In LiteRT pooling is int8 too, and a layer in float32 has all that only feeds it in float32: with head, wild is.
    hurts = "head" if format == "litert" else "wild"
    told = rf"SQNR is .* hurts most is {hurts}.*keep_fp32=\['{hurts}'\]"
    with pytest.raises(VerificationError, match=told) as caught:
        deploy.export(net, tmp_path, limits=limits, **asked)
    assert "which was tried and keeps the limits" in str(caught.value) and not list(tmp_path.iterdir())
    made = deploy.export(net, tmp_path, limits=limits, keep_fp32=["wild"], **asked)
    assert isinstance(made.verification, deploy.Fidelity) and made.verification.sqnr >= 20
    assert made.keep_fp32 == ("wild",)


def test_layerwise_noise_ranks_what_was_made_worst_and_leaves_the_model(tmp_path: Path) -> None:
    net = Wild().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ranked = deploy.layerwise_sqnr(net, images(16))
    assert ranked[0].layer == "wild" and {n.layer for n in ranked} == {"first", "wild", "head"}
    assert ranked[0].sqnr + 10 < ranked[1].sqnr <= ranked[2].sqnr
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"calibration": [torch.randn(4, 1, 32, 32)]},
            DataError,
            r"batch 0 .*\[batch, 1, 32, 32\].*\[batch, 3, 32, 32\]",
        ),
        ({"calibration": [torch.zeros(4, 3, 32, 32, dtype=torch.uint8)]}, DataError, "uint8"),
        ({"calibration": [torch.full((4, 3, 32, 32), torch.nan)]}, DataError, "not finite"),
        ({"calibration": []}, DataError, "no sample"),
        ({"keep_fp32": ["no.such.layer"]}, UnknownNameError, "Available: first, head, wild"),
        ({"quantize": "int4"}, UnknownNameError, "Available: int8"),
        ({"quantize": None}, ExportError, "are for int8"),
    ],
)
def test_what_int8_cannot_use_is_refused_before_any_work(
    change: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    asked = {"quantize": "int8", "calibration": [images(4)], "example_inputs": images(1), **change}
    with pytest.raises(error, match=message):
        deploy.export(Wild(), tmp_path, **asked)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


@pytest.mark.parametrize("limits", [{"agreement": 1.5}, {"accuracy_drop": -0.1}])
def test_limits_that_mean_nothing(limits: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=r"\[0, 1\]"):
        Limits(**limits)


def test_every_limit_that_is_not_kept_is_reported() -> None:
    found = deploy.Fidelity("here", "data", 10, 5.0, 0.5, 0.6, 0.9, Limits())
    assert len(found.failures) == 3
    with pytest.raises(
        VerificationError,
        match=r"SQNR is 5\.0 dB.*agreement is 50\.0%, at least .*falls by 30\.0 points, from 90\.0% to 60\.0%",
    ):
        found.check()
    deploy.Fidelity("here", "data", 10, 5.0, 0.5, 0.6, 0.9, Limits(0.5, 5.0, 0.31)).check()
    deploy.Fidelity("here", "data", 10, 40.0, None, None, None, Limits()).check()


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_runtime_that_is_missing_or_too_old_is_named(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = FORMATS[format]
    package = next(iter(runtime.to_run))
    monkeypatch.setitem(sys.modules, package, None)
    whole = r"\." if runtime.extra == "litert" else "reconvene"  # of the clone, in an environment of its own
    with pytest.raises(MissingExtraError, match=rf"needs {package}, .*pip install '{whole}\[{runtime.extra}\]'"):
        deploy.export(Wild(), tmp_path, format=format, example_inputs=images(1))
    monkeypatch.setitem(sys.modules, package, sys)
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1")
    with pytest.raises(
        MissingExtraError, match=rf"{package} {runtime.to_run[package]} or newer, and 0.0.1 is installed"
    ):
        deploy.run_file(tmp_path / f"model{runtime.suffix}", images(1))


@every_format
def test_an_operator_that_a_runtime_lacks_is_named(format: str, tmp_path: Path) -> None:
    with pytest.raises((ExportError, VerificationError, ModelError), match=r"svd"):
        deploy.export(nn.Sequential(SingularValues()), tmp_path, format=format, example_inputs=images(1))
    assert not list(tmp_path.iterdir())


@every_format
def test_a_file_that_is_damaged_or_another_shape_is_refused(format: str, tmp_path: Path) -> None:
    made = deploy.export(Wild(), tmp_path, format=format, example_inputs=images(1), verify=False)
    with pytest.raises(ModelError):
        deploy.run_file(made.path, torch.randn(1, 3, 16, 16)[:, :2])
    made.path.write_bytes(made.path.read_bytes()[:40])
    with pytest.raises(ModelError, match="cannot load"):
        deploy.run_file(made.path, images(1))
    with pytest.raises(ModelError, match="there is no file"):
        deploy.run_file(tmp_path / f"other{FORMATS[format].suffix}", images(1))


class Unbatched(nn.Module):
    """Logits beside a number for the whole call and a table that has no batch; their sum with zeros is no operation."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.register_buffer("table", torch.arange(6.0).reshape(3, 2))
        self.register_buffer("zeros", torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.convolution(x).relu().mean((2, 3))
        return self.head(features) + self.zeros, features.pow(2).mean(), self.table * 1.0


@pytest.mark.parametrize("format", ["executorch", "ncnn", "onnx", "openvino"], indirect=True)
def test_outputs_have_the_names_and_shapes_of_the_model(format: str, tmp_path: Path) -> None:
    model, x = Unbatched().eval(), torch.randn(1, 3, 8, 8)
    outputs = deploy.run_file(deploy.export(model, tmp_path, format=format, example_inputs=x).path, x)
    assert list(outputs) == ["output_0", "output_1", "output_2"]
    for value, expected in zip(outputs.values(), model(x), strict=True):
        torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "ncnn"], indirect=True)
def test_numbers_of_several_calls_are_not_put_together(format: str, tmp_path: Path) -> None:
    made = deploy.export(Unbatched(), tmp_path, format=format, example_inputs=torch.randn(1, 3, 8, 8), batch="static")
    with pytest.raises(ModelError, match="'output_1' is one number a call"):
        deploy.run_file(made.path, torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize("format", ["ncnn"], indirect=True)
def test_ncnn_refuses_an_input_without_a_dimension_besides_the_batch(format: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Let it take \[batch, 1\]"):
        deploy.export(nn.Sequential(nn.Unflatten(0, (1, -1))), tmp_path, format=format, example_inputs=torch.randn(1))


def test_the_error_for_a_file_of_no_runtime_lists_the_known_endings(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Available: .*\.onnx.*\.pte"):
        deploy.run_file(tmp_path / "model.engine", images(1))


@pytest.mark.slow
def test_bench_sets_int8_beside_fp32_with_size_and_agreement() -> None:
    pytest.importorskip("onnxruntime")
    net = trained("resnet8").eval()
    evidence = deploy.BenchData(calibrating(), labelled("resnet8"), "128 test images")
    asked = {"runtimes": ("onnxruntime", "eager"), "precisions": ("fp32", "int8"), "evidence": evidence, "repeats": 2}
    result = deploy.time_variants({"dense": net, "pruned": net}, images(1), **asked)
    rows = [(row.runtime, row.variant, row.precision) for row in result.rows]
    onnx = [("onnxruntime", variant, kind) for variant in ("dense", "pruned") for kind in ("fp32", "int8")]
    assert rows == [*onnx, ("eager", "dense", "fp32"), ("eager", "pruned", "fp32")]
    whole, small = result.row("onnxruntime", "dense"), result.row("onnxruntime", "pruned", "int8")
    assert whole.speedup == 1.0 and whole.agreement == 1.0
    assert whole.size is not None and small.size is not None and small.size < whole.size / 2
    assert small.agreement is not None and 0.95 <= small.agreement <= 1
    assert result.row("eager", "dense").size is None and result.data == "128 test images" and not result.left_out
    assert "int8" in str(result) and "128 test images" in str(result)
    with pytest.raises(UnknownNameError, match="Available: fp32, int8"):
        deploy.time_variants({"net": net}, images(1), precisions=("int4",))
    with pytest.raises(ExportError, match="calibrated on real data"):
        deploy.time_variants({"net": net}, images(1), runtimes=("onnxruntime",), precisions=("fp32", "int8"), repeats=1)
