"""Models whose form exporters misread (writes into views, instance norms with statistics), and operators that fail."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reconvene import deploy
from reconvene.deploy.model_io import outputs_of
from reconvene.deploy.rewriting import eval_form
from reconvene.errors import ExportError
from support.formats import require_format

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

every_format = pytest.mark.parametrize(
    "format",
    ["ncnn", "onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("executorch", "openvino"))],
)


class Written(nn.Module):
    """A ReLU in place on a part of a tensor, which is then read as a whole."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner, self.norm, self.outer = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.inner(x))
        if self.kind == "slice":
            self.relu(y[:, :8])
        elif self.kind == "middle":
            self.relu(y[:, 4:8])
            self.relu(y[:, :, 2:-1])
        elif self.kind == "transposed":
            self.relu(y.view(y.shape[0], 2, 8, *y.shape[2:]).transpose(1, 2))
        elif self.kind == "chunk":
            part, other = y.chunk(2, 1)
            y = torch.cat([self.relu(part), other], 1)
        elif self.kind == "permuted":
            y = self.relu(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        elif self.kind == "strided":
            self.relu(y[:, ::2])
        return self.outer(y)


def written(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Written(kind).eval()


@every_format
@pytest.mark.parametrize("kind", ["slice", "middle", "transposed", "chunk", "permuted"])
def test_writes_into_views_are_seen_in_the_whole(kind: str, format: str, tmp_path: Path) -> None:
    require_format(format)
    if format == "onnx" and kind not in ("slice", "chunk"):
        pytest.skip("seen in ncnn, which traces otherwise; two kinds are enough here")
    net, x = written(kind), torch.randn(1, 3, 8, 8)
    made = deploy.export(net, tmp_path, format=format, example_inputs=x)
    (output,) = deploy.run_file(made.path, x).values()
    with torch.no_grad():
        torch.testing.assert_close(output, net(x), rtol=1e-3, atol=1e-5)


def test_a_write_that_ncnn_has_no_operator_for_is_named_and_not_lost(tmp_path: Path) -> None:
    require_format("ncnn")
    with pytest.raises(ExportError, match=r"no operator for .*slice"):
        deploy.export(written("strided"), tmp_path, format="ncnn", example_inputs=torch.randn(1, 3, 8, 8), verify=False)


class Normed(nn.Module):
    """An instance norm with running statistics in a module within one that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Sequential(norm, nn.ReLU()))
        self.head = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                assert tensor is not None
                tensor.normal_()
            assert norm.running_var is not None
            norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.head(self.body(x))


@every_format
def test_an_instance_norm_with_statistics_is_the_batch_norm_that_it_is_in_eval_mode(
    format: str, tmp_path: Path
) -> None:
    require_format(format)
    net, x = Normed().eval(), torch.randn(2, 1, 12, 12)
    made = deploy.export(net, tmp_path, format=format, example_inputs=x)
    (output,) = deploy.run_file(made.path, x).values()
    with torch.no_grad():
        torch.testing.assert_close(output, net(x), rtol=1e-3, atol=1e-5)
    assert isinstance(net.body[1][0], nn.InstanceNorm2d), "the caller's model stays as it is"


def test_the_form_for_exporters_shares_every_tensor_and_leaves_other_models_alone() -> None:
    net = Normed().eval()
    form = eval_form(net)
    assert form is not net and isinstance(form.body[1][0], nn.BatchNorm2d) and form.head is net.head
    ours = {id(tensor) for tensor in (*net.parameters(), *net.buffers())}
    assert {id(tensor) for tensor in (*form.parameters(), *form.buffers())} == ours
    x = torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(form(x), net(x), rtol=1e-5, atol=1e-6)
    for other in (nn.Conv2d(1, 1, 1), nn.Sequential(nn.InstanceNorm2d(3)), nn.BatchNorm2d(3)):
        assert eval_form(other) is other
    alone = nn.InstanceNorm1d(3, track_running_stats=True)
    assert isinstance(eval_form(alone), nn.BatchNorm1d)


def test_a_network_that_runs_without_gradients_only_is_exported(tmp_path: Path) -> None:
    """PyTorch forbids writes into the parts of a chunk where gradients are followed: no step of ours follows them."""
    require_format("ncnn")
    assert deploy.export(written("chunk"), tmp_path, format="ncnn", example_inputs=torch.randn(1, 3, 8, 8)).bytes


@dataclass
class Answer:
    """What a model of a user may return."""

    scores: Tensor
    deep: dict[str, list[Tensor]]


class ReturnsDataclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Answer:
        features = torch.relu(self.inner(x))
        return Answer(self.outer(features), {"features": [features]})


def test_the_fields_of_a_dataclass_are_outputs(tmp_path: Path) -> None:
    model, x = ReturnsDataclass(), torch.randn(2, 4)
    assert [(name, len(t[0])) for name, t in outputs_of(model, x).items()] == [("scores", 2), ("deep.features.0", 8)]
    fidelity = deploy.export(model, tmp_path, example_inputs=x).verification
    assert fidelity is not None and fidelity.max_rel_error < 1e-4


@pytest.mark.slow
def test_an_operator_that_executorch_cannot_run_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    require_format("executorch")
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1)).eval()
    with pytest.raises(ExportError, match=r"does not run in executorch: .*aten::convolution\.out.*3-D or 4-D"):
        deploy.export(net, tmp_path, format="executorch", example_inputs=torch.randn(1, 1, 4, 4, 4))
    assert not list(tmp_path.iterdir()) and tuple(capfd.readouterr()) == ("", "")


def test_a_file_that_its_runtime_does_not_run_is_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconvene.deploy.runtimes.onnx.runtime import OnnxSession
    from reconvene.errors import ModelError

    def fail(self: OnnxSession, inputs: object) -> None:
        raise ModelError("the operator Spin is not there")

    monkeypatch.setattr(OnnxSession, "run", fail)
    with pytest.raises(ExportError, match="does not run in onnxruntime: the operator Spin"):
        deploy.export(nn.Linear(3, 2), tmp_path, example_inputs=torch.randn(2, 3))
    assert not list(tmp_path.iterdir())
