"""Export, run, verify and bench: the file computes what the model computes, and the model stays as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reconvene import deploy
from reconvene.deploy import benchmark
from reconvene.deploy.batch_comparison import BatchComparison
from reconvene.deploy.runtimes.onnx import runtime as onnx_runtime
from reconvene.errors import (
    DataError,
    ExportError,
    MissingExtraError,
    ModelError,
    UnknownNameError,
    VerificationError,
)
from reconvene.tasks import DEFAULT
from support.paths import ROOT, TESTS
from support.small_modules import SingularValues

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def small_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        convolution = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        net = nn.Sequential(*convolution, nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    return net


class TwoHeads(nn.Module):
    """Keyword inputs, nested outputs, outputs that are no tensors, an output called like an input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor | None = None, **more: Tensor) -> dict[str, object]:
        return {"out": self.inner(a) + b, "aux": (a * 2, None, more["c"] - 1), "count": 3, "a": torch.relu(a)}


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> deploy.Exported:
    folder, x = tmp_path_factory.mktemp("net"), torch.randn(1, 3, 8, 8)
    return deploy.export(small_net(), folder, example_inputs=x, task="classification")


def test_file_computes_what_the_model_computes_for_every_batch_size(exported: deploy.Exported) -> None:
    net = small_net().eval()
    for size in (1, 2, 5, 17):
        x = torch.randn(size, 3, 8, 8)
        outputs = deploy.run_file(exported.path, x)
        assert list(outputs) == ["output"]
        torch.testing.assert_close(outputs["output"], net(x), rtol=1e-5, atol=1e-6)
    checked = exported.verification
    assert checked is not None and [row.batch_size for row in checked.rows] == [1, 3, 8]
    assert checked.agreement == 1.0 and checked.max_rel_error <= 1e-5
    assert "noise, seed 0" in str(exported) and json.loads(json.dumps(exported.to_dict()))["file"] == "model.onnx"


def test_one_file_no_trace_of_the_machine(exported: deploy.Exported) -> None:
    import onnx as onnx_package

    assert [file.name for file in exported.path.parent.iterdir()] == ["model.onnx"]
    data = exported.path.read_bytes()
    assert exported.bytes == len(data)
    here = Path(__file__).resolve()
    for trace in (str(ROOT), sys.prefix, "site-packages", "stack_trace", "forward", here.name):
        assert trace.encode() not in data
    proto = onnx_package.load(exported.path)
    assert proto.producer_name == "reconvene"
    assert {entry.key for entry in proto.metadata_props} == {"producer", "version", "torch"}
    assert proto.opset_import[0].version >= 20
    onnx_package.checker.check_model(proto, full_check=True)


def test_same_model_same_bytes_in_another_process_and_in_train_mode(exported: deploy.Exported, tmp_path: Path) -> None:
    first = exported.path.read_bytes()
    deploy.export(small_net().train(), tmp_path, example_inputs=torch.randn(4, 3, 8, 8), verify=False, name="again")
    assert (tmp_path / "again.onnx").read_bytes() == first
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; import torch; from reconvene import deploy;"
        "from deploy.test_deploy import small_net;"
        "deploy.export(small_net(), sys.argv[1], example_inputs=torch.randn(1, 3, 8, 8), verify=False)"
    )
    paths = [str(TESTS), str(Path(deploy.__file__).parents[2])]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *paths],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert (tmp_path / "model.onnx").read_bytes() == first


def test_model_modes_weights_random_state_and_hooks_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = small_net().train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes, random_state = [m.training for m in net.modules()], torch.get_rng_state()
    threads = torch.get_num_threads()
    deploy.export(net, tmp_path, example_inputs=torch.ones(1, 3, 8, 8))
    deploy.time_variants({"net": net}, torch.ones(1, 3, 8, 8), repeats=1)
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state) and torch.get_num_threads() == threads
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert tuple(capfd.readouterr()) == ("", "")


def test_keyword_inputs_and_nested_outputs(tmp_path: Path) -> None:
    net = TwoHeads()
    inputs = {name: torch.randn(1, 4) for name in "cba"}
    path = deploy.export(net, tmp_path, example_inputs=inputs).path
    found = deploy.run_file(path, {name: inputs[name] for name in "abc"})
    assert list(found) == ["out", "aux.0", "aux.2", "output_a"]
    expected = net(**inputs)
    torch.testing.assert_close(found["out"], expected["out"])
    torch.testing.assert_close(found["aux.2"], inputs["c"] - 1)
    torch.testing.assert_close(found["output_a"], torch.relu(inputs["a"]))
    with pytest.raises(ModelError, match=r"takes \['c', 'b', 'a'\]"):
        deploy.run_file(path, {"a": inputs["a"]})


def test_models_of_ours_need_no_example_inputs(tmp_path: Path, exported: deploy.Exported) -> None:
    net = small_net()
    with pytest.raises(ExportError, match="Pass example_inputs"):
        deploy.export(net, tmp_path)
    net.reconvene_source = SimpleNamespace(input_shape=(3, 8, 8))
    assert deploy.export(net, tmp_path, verify=False).path.read_bytes() == exported.path.read_bytes()
    assert deploy.measure_latency(net, repeats=1) > 0


@pytest.mark.parametrize(
    ("net", "inputs", "message"),
    [
        (nn.Sequential(SingularValues()), torch.randn(2, 4, 4), r"aten\._linalg_svd.*module 0, a SingularValues"),
        (Branching(), torch.randn(2, 4), "depends on computed values"),
    ],
)
def test_what_cannot_be_exported_says_why_and_leaves_nothing(
    net: nn.Module, inputs: Tensor, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=message):
        deploy.export(net, tmp_path, example_inputs=inputs)
    assert not list(tmp_path.iterdir())
    assert tuple(capfd.readouterr()) == ("", "")


def test_options_that_do_not_exist(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(UnknownNameError, match="Available: executorch, litert, ncnn, nir, onnx, openvino"):
        deploy.export(small_net(), tmp_path, format="tflite", example_inputs=x)
    with pytest.raises(UnknownNameError, match="Available: int8"):
        deploy.export(small_net(), tmp_path, quantize="int4", example_inputs=x)
    with pytest.raises(ExportError, match="pass calibration"):
        deploy.export(small_net(), tmp_path, quantize="int8", example_inputs=x)
    with pytest.raises(ExportError, match="are for int8"):
        deploy.export(small_net(), tmp_path, calibration=[x], example_inputs=x)
    with pytest.raises(ExportError, match="plain file name"):
        deploy.export(small_net(), tmp_path, name="../model", example_inputs=x)
    with pytest.raises(
        UnknownNameError, match="Available: eager, executorch, litert, ncnn, nir, onnxruntime, openvino"
    ):
        deploy.time_variants({"a": small_net()}, x, runtimes=("tensorrt",))
    with pytest.raises(ModelError, match="does not run on inputs of shape"):
        deploy.export(small_net(), tmp_path, example_inputs=torch.randn(1, 4, 8, 8))


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*pip install 'reconvene\[onnx\]'"):
        deploy.export(small_net(), tmp_path, example_inputs=torch.randn(1, 3, 8, 8))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="could not write"):
        deploy.export(small_net(), tmp_path / "file" / "dir", example_inputs=torch.randn(1, 3, 8, 8))


def test_weights_past_the_limit_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "SINGLE_FILE_LIMIT", 100)
    net = nn.Linear(64, 64)
    result = deploy.export(net, tmp_path / "a", example_inputs=torch.randn(1, 64))
    assert [file.name for file in result.files] == ["model.onnx", "model.onnx.data"]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["model.onnx", "model.onnx.data"]
    (tmp_path / "a").rename(tmp_path / "b")  # the reference between the files is relative
    x = torch.randn(3, 64)
    torch.testing.assert_close(deploy.run_file(tmp_path / "b/model.onnx", x)["output"], net(x))


def test_a_file_of_another_model_is_refused_loudly(exported: deploy.Exported, tmp_path: Path) -> None:
    net = small_net()
    with torch.no_grad():
        net[6].bias[2] += 0.01
    with pytest.raises(VerificationError, match=r"batch size \d: relative error .* 'output' \[\d, 2\].*noise, seed 0"):
        deploy.verify_export(net, exported.path, example_inputs=torch.randn(1, 3, 8, 8))
    loose = deploy.verify_export(
        net, exported.path, example_inputs=torch.randn(1, 3, 8, 8), tolerance=1.0, agreement=0.0
    )
    assert loose.max_abs_error == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(VerificationError, match=r"output 'output' is \[1, 4\] in PyTorch, \[1, 5\] in the file"):
        deploy.verify_export(
            nn.Sequential(*net[:6], nn.Linear(8, 4)), exported.path, example_inputs=torch.randn(1, 3, 8, 8)
        )
    with torch.no_grad():
        net[6].bias[0] = torch.nan
    with pytest.raises(VerificationError, match="NaN in PyTorch already"):
        deploy.verify_export(net, exported.path, example_inputs=torch.randn(1, 3, 8, 8))
    (tmp_path / "broken.onnx").write_bytes(exported.path.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"cannot load broken\.onnx"):
        deploy.verify_export(net, tmp_path / "broken.onnx", example_inputs=torch.randn(1, 3, 8, 8))


def test_a_file_that_fails_verification_replaces_nothing(
    exported: deploy.Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"what was there")
    run = onnx_runtime.OnnxSession.run
    monkeypatch.setattr(
        onnx_runtime.OnnxSession,
        "run",
        lambda self, x: {name: value + (len(x) == 3) for name, value in run(self, x).items()},
    )
    with pytest.raises(VerificationError, match="batch size 3"):
        deploy.export(small_net(), tmp_path, example_inputs=torch.randn(1, 3, 8, 8))
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"what was there"]


def test_verification_says_which_data_and_uses_all_of_it(exported: deploy.Exported) -> None:
    batches = [(torch.randn(10, 3, 8, 8), torch.zeros(10, dtype=torch.int64)) for _ in range(4)]
    result = deploy.verify_export(small_net(), exported.path, data=batches, samples=36)
    assert (result.data, result.samples) == ("real data", 36)
    assert [row.batches for row in result.rows] == [3, 3, 3] and sum(row.predictions for row in result.rows) == 36
    few = deploy.verify_export(small_net(), exported.path, data=[(torch.randn(2, 3, 8, 8), None)])
    assert few.samples == 2 and [row.batches for row in few.rows] == [1, 1, 1]
    with pytest.raises(DataError, match="no sample"):
        deploy.verify_export(small_net(), exported.path, data=[])
    assert "36 samples of real data" in str(result) and json.loads(result.to_json())["rows"][2]["batch_size"] == 8


def test_an_output_that_never_changes_is_reported(exported: deploy.Exported, tmp_path: Path) -> None:
    assert exported.verification is not None and exported.verification.warning == ""
    net = small_net()
    nn.init.zeros_(net[6].weight)
    checked = deploy.export(net, tmp_path, example_inputs=torch.randn(1, 3, 8, 8)).verification
    assert checked is not None and checked.unchanging == ("output",)
    assert "the same for every sample" in str(checked) and checked.to_dict()["warning"] == checked.warning


def test_errors_are_relative_to_the_output_and_ties_are_no_disagreement() -> None:
    a = torch.tensor([[100.0, 99.9999, 0.0], [5.0, 0.0, 1.0]])
    b = torch.tensor([[99.9999, 100.0, 0.0], [5.0, 0.0, 1.5]])
    row = BatchComparison(2).with_batch({"y": a}, {"y": b}, location="here", judges={"y": DEFAULT})
    assert row.max_abs_error == 0.5 and row.max_rel_error == pytest.approx(0.005) and "'y' [1, 2]" in row.where
    assert row.agreement == 1.0
    assert (
        BatchComparison(2).with_batch({"y": a}, {"y": b.roll(1, 1)}, location="here", judges={"y": DEFAULT}).agreement
        == 0.0
    )
    assert BatchComparison(2).with_batch({"y": a}, {"y": b}, location="here").agreement is None, (
        "no classes, no predictions"
    )
    endless = torch.tensor([[-torch.inf, 1.0]])
    assert BatchComparison(1).with_batch({"y": endless}, {"y": endless.clone()}, location="here").max_rel_error == 0.0
    for other in (torch.tensor([[0.0, 1.0]]), torch.tensor([[-torch.inf, torch.nan]])):
        with pytest.raises(VerificationError, match="not finite in the file"):
            BatchComparison(1).with_batch({"y": endless}, {"y": other}, location="here")


def test_bench_pairs_variants_round_by_round(exported: deploy.Exported) -> None:
    large = nn.Sequential(nn.Flatten(), nn.Linear(192, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.Linear(2048, 5))
    x = torch.randn(1, 3, 8, 8)
    result = deploy.time_variants({"dense": large, "pruned": small_net()}, x, repeats=5)
    assert [(row.runtime, row.variant) for row in result.rows] == [
        (runtime, variant) for runtime in ("onnxruntime", "eager") for variant in ("dense", "pruned")
    ]
    for row in result.rows:
        assert 0 < row.quarter <= row.median <= row.three_quarters and row.min_wall > 0
        assert row.speedup_quarter <= row.speedup <= row.speedup_three_quarters
    assert result.row("onnxruntime", "dense").speedup == 1.0
    # 4.6 million multiplications against 14 thousand: no load on the machine turns that round
    assert result.row("onnxruntime", "pruned").speedup > 2
    assert (result.clock, result.threads, result.batch, result.inputs) == ("thread", 1, 1, ((1, 3, 8, 8),))
    data = json.loads(result.to_json())
    assert data["machine"]["processor"] and data["versions"]["onnxruntime"] and data["date"].endswith("+00:00")
    assert "speed-up" in str(result) and "pruned" in str(result)
    by_file = deploy.time_variants({"file": exported.path}, x, runtimes=("onnxruntime",), repeats=1)
    assert by_file.rows[0].median > 0
    with pytest.raises(ModelError, match="eager runtime runs modules"):
        deploy.time_variants({"file": exported.path}, x, runtimes=("eager",))


def test_the_clock_sees_the_runtime_and_not_the_waiting(exported: deploy.Exported) -> None:
    """ONNX Runtime with one thread computes on the calling thread, or thread time would measure nothing."""
    x = torch.randn(64, 3, 8, 8)
    with deploy.RUNTIMES["onnxruntime"].open(exported.path, 1) as session:
        call = session.bind(x)
        thread_start, process_start = time.thread_time(), time.process_time()
        for _ in range(50):
            call()
        thread, process = time.thread_time() - thread_start, time.process_time() - process_start
    assert thread > 0.9 * process
    waits, _ = benchmark._rounds([lambda: time.sleep(0.01)], repeats=3, seed=0)
    assert np.median(waits) < 0.005


def test_a_latency_is_the_value_that_its_settled_function_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([3.0, 2.5, 1.0])

    def rounds(calls: list[object], *, repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((repeats, 1), next(taken)), np.zeros((repeats, 1))

    monkeypatch.setattr(benchmark, "_rounds", rounds)
    model, inputs = nn.Linear(4, 2), torch.randn(1, 4)
    assert benchmark.measure_latency(model, inputs) == 3.0
    assert benchmark.measure_latency(model, inputs, settled=lambda read: read() + read()) == 3.5


def test_files_written_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(ExportError, match="No space left"):
        deploy.export(small_net(), tmp_path, example_inputs=torch.randn(1, 3, 8, 8))
    assert not list(tmp_path.iterdir())
