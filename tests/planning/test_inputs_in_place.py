"""A network that writes to its inputs, as one that normalises in place does, is treated as its out-of-place twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.data import load_data
from reconvene.deploy.runtimes.eager import open_eager
from reconvene.training import Distillation, TrainConfig, train_model


class Normalising(nn.Module):
    def __init__(self, *, in_place: bool, channels: int = 3) -> None:
        super().__init__()
        self.in_place = in_place
        self.body = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.sub_(0.5).div_(0.25) if self.in_place else (x - 0.5) / 0.25
        return self.head(self.body(x).mean((2, 3)))


def twins(channels: int = 3) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain, in_place = Normalising(in_place=False, channels=channels), Normalising(in_place=True, channels=channels)
    in_place.load_state_dict(plain.state_dict())
    return plain.eval(), in_place.eval()


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images(seed), torch.arange(8)) for seed in range(3)]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


TRAINED = {"trained": True, "rectify": "keep"}
PRUNED: dict[str, dict[str, Any]] = {
    "reinit": {},
    "rescale": {"criterion": "magnitude", "rectify": "rescale"},
    "snip": {"criterion": "snip", "evaluator": "density", "rectify": "keep"},
    "reconstruct": {"trained": True},
    "recalibrate": {"trained": True, "rectify": "recalibrate"},
    **{name: {**TRAINED, "criterion": name} for name in ("taylor", "obd", "hrank")},
    "bits": {"trained": True, "bits": (0, 2, 4, 8), "activation_bits": (4, 8)},
}


@pytest.mark.parametrize("name", PRUNED)
def test_a_pruned_network_is_that_of_its_twin_and_the_data_stay(name: str) -> None:
    budget = rc.Budget(ops_bit="6x") if name == "bits" else rc.Budget(params="2x")
    smaller = []
    for model in twins():
        data, x = batches(), images(9)
        smaller.append(rc.prune(model, x, budget, data=data, **PRUNED[name]))
        assert torch.equal(x, images(9))
        assert all(torch.equal(inputs, images(seed)) for seed, (inputs, _) in enumerate(data))
    assert same(*smaller)


def time_in_pytorch(model: nn.Module, x: torch.Tensor) -> None:
    with open_eager(model, 1) as session:
        session.bind(x)()
        session.run(x)


@pytest.mark.parametrize(
    "command",
    [
        lambda model, x: rc.groups(model, x),
        lambda model, x: rc.measure(model, x),
        lambda model, x: rc.sensitivity(model, x),
        lambda model, x: rc.simplify(model, x),
        lambda model, x: time_in_pytorch(model, x),
    ],
    ids=["groups", "measure", "sensitivity", "simplify", "eager"],
)
@pytest.mark.parametrize("first", [True, False], ids=["relu", "normalising"])
def test_the_example_inputs_of_the_caller_stay(command: Callable[..., Any], *, first: bool) -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)) if first else None
    x = images() - 0.5
    command(model or twins()[1], x)
    assert torch.equal(x, images() - 0.5)


@pytest.mark.parametrize("file_format", ["onnx", "openvino", "executorch", "ncnn"])
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_file_is_compared_on_what_the_network_reads(file_format: str, quantize: str | None, tmp_path: Path) -> None:
    model, x, calibration = twins()[1], images(), [images(1), images(2)]
    options = {"quantize": quantize, "calibration": calibration if quantize else None, "task": "regression"}
    try:
        exported = rc.export(model, tmp_path, format=file_format, example_inputs=x, **options)
    except rc.errors.MissingExtraError as error:
        pytest.skip(str(error))
    assert exported.verification.max_rel_error < 1e-4 if quantize is None else exported.verification.sqnr > 30
    assert torch.equal(x, images()) and torch.equal(calibration[1], images(2))


def test_a_student_and_its_teacher_read_the_same_images(tmp_path: Path) -> None:
    digits = load_data("digits", limit=120, input_shape=(1, 16, 16))
    trained = []
    for student, teacher in zip(twins(1), twins(1), strict=True):
        config = TrainConfig(batch_size=40, precision="fp32")
        folder = tmp_path / str(len(trained))
        distillation = Distillation(teacher)
        result = train_model(student, digits, epochs=1, directory=folder, config=config, distillation=distillation)
        trained.append((result.score, student.state_dict()))
    (score, weights), (other_score, other_weights) = trained
    assert score == other_score and all(map(torch.equal, weights.values(), other_weights.values()))


def test_a_search_reads_the_batches_of_the_caller_and_leaves_them() -> None:
    smaller = []
    for model in twins():
        data = batches()
        smaller.append(rc.search(model, images(), rc.Budget(size="1.5kB"), train=data, epochs=3, warmup=1))
        assert all(torch.equal(inputs, images(seed)) for seed, (inputs, _) in enumerate(data))
    assert same(*smaller)


class Counting(nn.Module):
    """Counts its passes in a buffer that is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layers(x)


def test_a_counter_of_passes_stays_where_it_was(tmp_path: Path) -> None:
    model, x = Counting().eval(), images()
    rc.measure(model, x)
    rc.export(model, tmp_path, example_inputs=x, task="regression")
    rc.export(model, tmp_path, example_inputs=x, task="regression", quantize="int8", calibration=[images(1)])
    rc.prune(model, x, rc.Budget(params="2x"), trained=True, data=batches(), loss=lambda output, _: output.mean())
    assert float(model.calls) == 0
