"""Quantisation-aware training: roundings are in the training graph, the rest is the network, and int8 gains by it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reconvene import artifact, deploy
from reconvene.data import Dataset, calibration, load_data
from reconvene.data import test_batches as batches_of_test
from reconvene.deploy import QuantisationAware, pt2e
from reconvene.deploy.qat import RoundedGraph, is_weight
from reconvene.errors import ExportError, TrainingError
from reconvene.training import Distillation, TrainConfig, train_model
from reconvene.training.run import TrainingRun
from support.cli_calls import answer, trouble
from support.training_checks import interrupt_at, same

pytest.importorskip("executorch", reason="the executorch extra is not installed")
pytest.importorskip("torchao", reason="the executorch extra is not installed")

CONFIG = TrainConfig(lr=0.02, batch_size=48, seed=3)


class Net(nn.Module):
    """A branch that adds, norms that are not as PyTorch makes them, dropout, a convolution with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, 1e-2, 0.3), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, 1e-3))
        self.head = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
        self.last = nn.Linear(12 * 9, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.branch(x))
        return self.last(self.head(x))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits", input_shape=(1, 8, 8))


@pytest.fixture(scope="module")
def trained(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    torch.manual_seed(11)
    net = Net()
    train_model(net, digits, epochs=8, directory=tmp_path_factory.mktemp("trained"), config=replace(CONFIG, lr=0.1))
    return net.eval()


def images(data: Dataset, count: int = 48) -> Tensor:
    return data.normalise(data.train.images[:count])


@pytest.fixture(scope="module")
def rounded(trained: nn.Module, digits: Dataset) -> RoundedGraph:
    """Made once: torchao takes seconds to rewrite a graph."""
    return QuantisationAware().rounded(copy.deepcopy(trained), images(digits))


def rounding(rounded: RoundedGraph, flag: bool) -> None:
    for module in rounded.rounding.children():
        module.fake_quant_enabled.fill_(flag)


@pytest.mark.parametrize("training", [False, True])
def test_without_the_roundings_the_graph_is_the_network(
    trained: nn.Module, rounded: RoundedGraph, digits: Dataset, training: bool
) -> None:
    """Outputs, gradients, and the running statistics that batch norms follow, by their own momentum and epsilon."""
    rounded.network.load_state_dict(trained.state_dict())
    plain = copy.deepcopy(trained).eval()
    for module in plain.modules():
        module.training = training and isinstance(module, nn.BatchNorm2d)
    rounded.train(training).at(0.0)
    rounding(rounded, False)
    x = images(digits)
    expected, found = plain(x), rounded(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    expected.square().mean().backward(), found.square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), rounded.network.parameters(), strict=True):
        if not (training and name == "branch.0.bias"):  # the norm takes it out again: its gradient is noise
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-2, atol=1e-4, msg=name)
    for name, value in plain.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(rounded.network.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    rounded.zero_grad()
    rounding(rounded, True)


def test_weights_and_activations_are_rounded_in_the_training_graph(
    trained: nn.Module, rounded: RoundedGraph, digits: Dataset
) -> None:
    rounded.network.load_state_dict(trained.state_dict())
    rounded.train().at(0.0)
    x, seen = images(digits), {}
    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: seen.update({name: (args[0], output)}))
        for name, module in rounded.rounding.named_children()
    ]
    output = rounded(x)
    weights = {name for name, module in rounded.rounding.named_children() if is_weight(module)}
    assert len(weights) == 4, "three convolutions, one linear layer"
    for name, (before, after) in seen.items():
        error = (after - before).detach().abs().max()
        # What only reshapes a rounded tensor is rounded alike once more.
        assert error > 0 or len(before.unique()) <= 256, f"{name} rounds nothing"
        levels = after[0] if name in weights else after
        assert len(levels.unique()) <= 256, name
        assert after.requires_grad == before.requires_grad
    for hook in hooks:
        hook.remove()
    assert len(output.unique()) <= 256
    with torch.no_grad():
        assert not torch.allclose(output, trained(x), atol=1e-3)


def test_ranges_stand_still_in_the_last_part_and_in_evaluation(
    trained: nn.Module, rounded: RoundedGraph, digits: Dataset
) -> None:
    rounded.network.load_state_dict(trained.state_dict())
    rounded.train().at(0.0)
    rounded(images(digits))
    before, statistics = rounded.ranges(), copy.deepcopy(rounded.network.state_dict())
    for training, progress in ((False, 0.0), (True, 0.5), (True, 1.0)):
        rounded.train(training).at(progress)
        rounded(9 * images(digits))
        assert rounded.ranges() == before and all(
            torch.equal(value, statistics[name]) for name, value in rounded.network.state_dict().items()
        )
    rounded.train().at(0.49)
    rounded(9 * images(digits))
    after = rounded.ranges()
    # Behind a norm that goes by the batch, nine times the input is no wider than it was.
    assert after.keys() == before.keys() and after["input 0"][0] > before["input 0"][0]
    assert rounded.eval()(images(digits, 1)).shape == (1, 10), "the last batch of an evaluation may be one image"


def test_the_training_graph_computes_what_the_file_does_within_a_step(
    trained: nn.Module, rounded: RoundedGraph, digits: Dataset, tmp_path: Path
) -> None:
    """Between the integers of XNNPACK and float32 sums a value half-way between two steps may go either way."""
    rounded.network.load_state_dict(trained.state_dict())
    rounded.train().at(0.0)
    x = images(digits)
    rounded(x)
    network = copy.deepcopy(rounded.network).eval()
    options = {"example_inputs": x[:1], "calibration": [x], "limits": deploy.Limits(0, -1e9, 1)}
    made = deploy.export(network, tmp_path, format="executorch", quantize="int8", learned=rounded.ranges(), **options)
    (found,) = deploy.run_file(made.path, x).values()
    with torch.no_grad():
        expected = rounded.eval()(x)
    levels = torch.unique(found)
    steps = (expected - found).abs() / (levels[1:] - levels[:-1]).min()
    assert float(steps.max()) < 1.01 and float((steps > 0.5).float().mean()) < 0.05


@contextmanager
def coarse() -> Iterator[None]:
    """Weights of three levels instead of 255: so coarse that rounding after training ruins the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pt2e, "WEIGHT_LIMIT", 1)
        yield


@pytest.fixture(scope="module")
def aware(trained: nn.Module, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The trained network, trained on with coarse weights: stopped once, gone on, and once more in one go."""
    folder, options = tmp_path_factory.mktemp("aware"), {"epochs": 3, "quantising": QuantisationAware()}
    parts, whole = copy.deepcopy(trained), copy.deepcopy(trained)
    with coarse(), pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 50)  # in the second half of the second epoch: ranges stand still since step 43
        with pytest.raises(KeyboardInterrupt):
            train_model(
                parts, digits, directory=folder / "parts", config=replace(CONFIG, checkpoint_seconds=0), **options
            )
    assert same(parts, trained), "a model is only changed at the end"
    with coarse():
        found = train_model(parts, digits, directory=folder / "parts", config=CONFIG, **options)
        assert found.resumed_at == 50
        torch.rand(3)
        return parts, found, whole, train_model(whole, digits, directory=folder / "whole", config=CONFIG, **options)


def in_executorch(model: nn.Module, data: Dataset, folder: Path, **more: Any) -> deploy.Fidelity:
    """int8 in the runtime, on all test images."""
    x = images(data, 1)
    made = deploy.export(
        model,
        folder,
        format="executorch",
        example_inputs=x,
        quantize="int8",
        calibration=calibration(data, 60),
        data=batches_of_test(data),
        limits=deploy.Limits(0, -1e9, 1),
        **more,
    )
    assert made.learned_ranges == ("learned" in more)
    assert isinstance(made.verification, deploy.Fidelity)
    return made.verification


def test_it_is_exact_and_resumes_and_leaves_an_ordinary_module(aware: Any, trained: nn.Module) -> None:
    parts, found, whole, result = aware
    assert same(parts, whole) and found.ranges == result.ranges and found.score == result.score
    assert not same(whole, trained)
    assert list(whole.state_dict()) == list(Net().state_dict()) and type(whole.stem[1]) is nn.BatchNorm2d
    assert not whole.training and not any(module._forward_hooks for module in whole.modules())
    assert result.ranges is not None and len(result.ranges) >= 6


@pytest.mark.slow
def test_int8_that_ruins_a_network_does_not_ruin_one_that_was_trained_for_it(
    aware: Any, trained: nn.Module, digits: Dataset, tmp_path: Path
) -> None:
    """In ExecuTorch itself; with the learned ranges it computes what the training graph computed."""
    _, _, whole, result = aware
    with coarse():
        after, before = (
            in_executorch(model, digits, tmp_path, **more)
            for model, more in ((whole, {"learned": result.ranges}), (trained, {}))
        )
    assert before.quality is not None and after.quality is not None
    assert before.quality < 0.7 < 0.85 < after.quality
    assert after.quality == pytest.approx(result.score, abs=0.003), "the graph rounds as the runtime does"


@pytest.mark.parametrize(
    ("config", "distillation", "message"),
    [
        ({"precision": "bf16"}, None, "bfloat16 rounds as coarsely"),
        ({"compile": True}, None, "compiled model cannot"),
        ({}, {"features": 0.1}, "features cannot be followed"),
    ],
)
def test_what_does_not_go_together_is_refused(
    trained: nn.Module, digits: Dataset, tmp_path: Path, config: Any, distillation: Any, message: str
) -> None:
    lesson = None if distillation is None else Distillation(trained, **distillation)
    options = {"config": replace(CONFIG, **config), "distillation": lesson, "quantising": QuantisationAware()}
    with pytest.raises(TrainingError, match=message):
        train_model(copy.deepcopy(trained), digits, epochs=1, directory=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


class Choosing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def test_a_network_that_cannot_be_exported_is_named(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Choosing could not be exported to a graph for quantisation-aware training"):
        train_model(Choosing(), digits, epochs=1, directory=tmp_path, config=CONFIG, quantising=QuantisationAware())


def test_formats_that_measure_their_own_ranges_say_so(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"example_inputs": images(digits, 1), "quantize": "int8", "learned": {}}
    with pytest.raises(ExportError, match="onnx measures its own ranges"):
        deploy.export(trained, tmp_path, format="onnx", calibration=[images(digits)], **options)
    with pytest.raises(ExportError, match="no range was learned for what input 0 outputs"):
        deploy.export(trained, tmp_path, format="executorch", calibration=[images(digits)], **options)


# ---- artifacts and the command line ----

FAST = ["--limit", "600", "--allow-import"]


def test_an_artifact_is_trained_on_and_exported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    artifact.save(Net(), folder, source={"address": "test_qat:Net", "input_shape": [1, 8, 8]})
    assert "is not trained yet" in trouble(capfd, "train", str(folder), *FAST, "--qat")
    plain = answer(capfd, "train", str(folder), *FAST)
    asked = ["train", str(folder), *FAST, "--qat", "--epochs", "1"]
    found = answer(capfd, *asked)
    assert found["quantised"]["before"] == plain["accuracy"] and found["quantised"]["epochs"] == 1
    assert found["asked"] == plain["asked"] and found["quantised"]["asked"]["lr"] == 0.01
    kept = artifact.Artifact.open(folder)
    assert asdict(kept.timed_training)["quantised"] == found["quantised"] and len(kept.ranges) >= 6
    assert not (folder / "checkpoint.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_step", lambda *a: pytest.fail("trained again"))
        assert answer(capfd, *asked) == found == answer(capfd, "train", str(folder), *FAST)
        assert "with other settings: lr is 0.02 now and was" in trouble(capfd, *asked, "--lr", "0.02")
        assert "not a trained artifact" in trouble(capfd, *asked, "--distill")
        assert "bfloat16" in trouble(capfd, *asked, "--again", "--precision", "bf16")
    options = ["--data", "digits", "--allow-import", "--quantize", "int8", "--to", "onnx,executorch"]
    exports = answer(capfd, "export", str(folder), *options, "--min-agreement", "0.9")["exports"]
    assert [row["learned_ranges"] for row in exports] == [False, True]
    assert all(row["verification"]["quality"] > 0.7 for row in exports)
    answer(capfd, "train", str(folder), *FAST, "--again", "--epochs", "1")
    assert {"ranges", "exports"}.isdisjoint(artifact.Artifact.open(folder).measurements)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_images_of_one_channel_may_lie_in_any_order(
    trained: nn.Module, digits: Dataset, tmp_path: Path, quantize: Any
) -> None:
    """Images of one channel are contiguous whatever stride that channel has; XNNPACK goes by it."""
    x = images(digits, 2)
    odd = x.as_strided(x.shape, (64, 1, 8, 1))
    more = {} if quantize is None else {"calibration": calibration(digits, 20), "limits": deploy.Limits(0, -1e9, 1)}
    made = deploy.export(trained, tmp_path, format="executorch", example_inputs=odd, quantize=quantize, **more)
    assert made.verification is not None
