"""The recipe learns, repeats itself to the bit, leaves the caller's things alone, and refuses what cannot work."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.data import Augmentation, Dataset, Split, calibration, load_data
from reconvene.errors import DataError, TrainingError
from reconvene.training import Distillation, TrainConfig, evaluate_split, read_log, train_model
from reconvene.training.config import Settled, learning_rate
from reconvene.training.machine import choose_device
from reconvene.training.memory_format import safe_in_channels_last
from reconvene.training.optimizer import Nesterov
from support.training_checks import bytes_of
from support.training_kills import CONFIG, digits, net

CPU = torch.device("cpu")


def test_it_learns_the_digits(tmp_path: Path) -> None:
    model, data = net(), load_data("digits", input_shape=(1, 8, 8))
    result = train_model(model, data, epochs=8, directory=tmp_path, config=TrainConfig(augment="none"))
    assert result.score > 0.9
    again = evaluate_split(model, data)  # by contiguous weights, where training ended with channels-last ones
    assert replace(again, loss=0.0) == replace(result.evaluation, loss=0.0)
    assert again.loss == pytest.approx(result.evaluation.loss, rel=1e-5)
    losses = [record["train_loss"] for record in result.records[1:]]
    assert losses[-1] < losses[0] / 2


def test_a_seed_repeats_itself_and_another_does_not(tmp_path: Path) -> None:
    ends = []
    for number, seed in enumerate((3, 3, 4)):
        model = net()
        train_model(model, digits(), epochs=1, directory=tmp_path / str(number), config=replace(CONFIG, seed=seed))
        ends.append(bytes_of(model))
        torch.rand(number + 1)  # the caller's own random numbers play no part
    assert ends[0] == ends[1] != ends[2]


def test_the_callers_random_state_modes_layout_and_hooks_stay(tmp_path: Path) -> None:
    model = net()
    model[1].eval()
    model[0].register_forward_hook(lambda *_: None)
    hooks = dict(model[0]._forward_hooks)
    strides = [p.stride() for p in model.parameters()]
    ids = [id(p) for p in model.parameters()]
    data = digits()  # loading imports libraries, and rich draws one number from ``random`` when it is imported
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()
    train_model(model, data, epochs=1, directory=tmp_path, config=CONFIG)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == before[1:]
    assert [m.training for m in model] == [True, False] + [True] * (len(model) - 2)
    assert [p.stride() for p in model.parameters()] == strides
    assert [id(p) for p in model.parameters()] == ids
    assert dict(model[0]._forward_hooks) == hooks
    assert all(p.grad is None for p in model.parameters())


def test_the_log_says_how_the_run_was_made(tmp_path: Path) -> None:
    data = digits()
    result = train_model(net(), data, epochs=2, directory=tmp_path, config=CONFIG)
    start, *epochs = read_log(tmp_path)
    assert tuple([start, *epochs]) == result.records
    assert start["dataset"] == str(data)
    assert start["config"]["batch_size"] == 48
    assert start["config"]["precision"] in ("bf16", "fp32"), "what was left open is logged as it was decided"
    assert start["libraries"]["torch"] == torch.__version__
    assert start["machine"]["processor"] and start["machine"]["threads"] == torch.get_num_threads()
    assert start["seed"] == CONFIG.seed
    assert [record["epoch"] for record in epochs] == [1, 2]
    assert [record["step"] for record in epochs] == [10, 20]
    for record in epochs:
        assert {"lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"} < record.keys()
        assert record["samples_per_second"] > 0
    assert epochs[-1]["test_accuracy"] == result.score
    assert f"{result.score:.2%}" in str(result)


def test_epochs_are_judged_by_validation_images_and_the_result_by_test_images(tmp_path: Path) -> None:
    network, data = net(), load_data("digits", input_shape=(1, 8, 8), validation=0.2)
    result = train_model(network, data, epochs=2, directory=tmp_path, config=CONFIG)
    first, last = result.records[1:]
    assert "validation_accuracy" in first and "test_accuracy" not in first
    assert last["validation_loss"] == pytest.approx(evaluate_split(network, data, split="validation").loss)
    assert last["test_accuracy"] == result.score == evaluate_split(network, data).score
    with pytest.raises(DataError, match="no validation images"):
        evaluate_split(network, digits(), split="validation")


def test_nesterov_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = net(), net()
    weights = [p for p in theirs.parameters() if p.ndim >= 2]
    others = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    optimizer = Nesterov(ours, momentum=0.9, weight_decay=0.01)
    for step in range(5):
        reference.param_groups[0]["lr"] = reference.param_groups[1]["lr"] = 0.1 / (step + 1)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        optimizer.step(0.1 / (step + 1))
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_clipping_shortens_long_gradients_together_and_leaves_short_ones() -> None:
    model = nn.Linear(2, 1)
    optimizer = Nesterov(model, momentum=0.9, weight_decay=0.0)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert optimizer.clip(None) == optimizer.clip(6.0) == 5.0
    assert model.weight.grad.tolist() == [[3.0, 0.0]]
    assert optimizer.clip(1.0) == 5.0
    assert model.weight.grad[0].tolist() == pytest.approx([0.6, 0.0])
    assert model.bias.grad.tolist() == pytest.approx([0.8])


def test_one_cycle_rises_to_the_rate_and_falls_to_zero() -> None:
    config = Settled(lr=0.2, warmup=0.25)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert 20 <= top <= 30 and math.isclose(max(rates), 0.2, rel_tol=1e-3)
    assert rates[-1] < 0.2 / 100 and rates[0] > 0


def test_multi_step_falls_to_a_tenth_after_a_half_and_after_three_quarters() -> None:
    config = Settled(lr=0.1, schedule="multi-step")
    rates = [learning_rate(config, step, 160) for step in (0, 79, 80, 119, 120, 159)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_small_data_gets_smaller_batches_and_a_rate_to_match() -> None:
    data = digits()
    settled = TrainConfig().settled(data, device=CPU)
    assert settled.batch_size == 8 or len(data.train) // settled.batch_size >= 32
    assert settled.augment == "shift", "digits are not flipped"
    assert settled.settled(data, device=CPU) == settled


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TrainConfig(lr=0.0), "lr must be above 0"),
        (TrainConfig(lr=math.nan), "lr must be above 0"),
        *((TrainConfig(lr=value), "lr must be above 0, or auto") for value in ("Auto", "0.1", None, True)),
        (TrainConfig(warmup=1.0), "warmup"),
        (TrainConfig(label_smoothing=1.0), "label_smoothing"),
        (TrainConfig(batch_size=10_000), "batch_size 10000 does not work for 480 training images"),
        (TrainConfig(batch_size=1), "batch_size 1 does not work"),
        (TrainConfig(device="warp"), "unknown device 'warp'"),
        (TrainConfig(augment="mixup"), "augment must be"),  # type: ignore[arg-type]
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, config: TrainConfig, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train_model(net(), digits(), epochs=1, directory=tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_a_missing_cuda_device_is_reported() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(TrainingError, match="no CUDA device"):
        choose_device("cuda")


def head(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = head(10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fc(x), x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (head(7), "7 outputs but digits has 10 classes.*num_classes=10"),
        (head(1000), "1000 outputs but digits has 10"),
        (nn.Sequential(nn.Conv2d(1, 10, 3)), r"returns a tensor \[2, 10, 6, 6\] for 2 images"),
        (Pair(), "returns tuple"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), head(10)), "does not run on digits's images 1x8x8"),
        (head(10).requires_grad_(False), "no trainable parameters"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_reported(tmp_path: Path, model: nn.Module, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train_model(model, digits(), epochs=1, directory=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_empty_data_is_reported(tmp_path: Path) -> None:
    data = digits()
    nothing = Split(data.train.images[:0], data.train.targets[:0])
    for empty, message in ((replace(data, train=nothing), "no training"), (replace(data, test=nothing), "no test")):
        with pytest.raises(TrainingError, match=message):
            train_model(net(), empty, epochs=1, directory=tmp_path)
    with pytest.raises(TrainingError, match="epochs must be at least 1"):
        train_model(net(), data, epochs=0, directory=tmp_path)


def test_a_loss_that_is_not_finite_says_where_and_what_to_try(tmp_path: Path) -> None:
    model = net()
    before = copy.deepcopy(model)
    config = replace(CONFIG, lr=1e20, precision="fp32")
    with pytest.raises(TrainingError, match=r"loss became (nan|inf) in epoch 1, step \d+, at learning rate .*lower lr"):
        train_model(model, digits(), epochs=2, directory=tmp_path, config=config)
    assert bytes_of(model) == bytes_of(before)


def test_a_folder_that_takes_no_files_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="cannot write"):
        train_model(net(), digits(), epochs=1, directory=tmp_path / "file" / "out")
    with pytest.raises(TrainingError, match="no training log"):
        read_log(tmp_path)


def test_evaluation_counts_by_hand() -> None:
    """Three images of two classes, and a model that always says class 0: two right, one wrong."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([1.0, 0.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias.expand(len(x), 2)

    split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0]))
    data = Dataset("three", split, split, ("cat", "dog"), (0.0,), (1.0,), Augmentation())
    model = Constant().train()
    result = evaluate_split(model, data, batch_size=2)
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.loss == pytest.approx((2 * right + wrong) / 3, rel=1e-6)
    assert result.per_class == {"cat": 1.0, "dog": 0.0}
    assert result.count == 3 and model.training
    assert "worst class dog 0.0%" in str(result)


def test_evaluation_restores_mixed_modes_even_after_an_error() -> None:
    model = net().train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    evaluate_split(model, digits())
    assert [m.training for m in model.modules()] == modes
    with pytest.raises(TrainingError):
        evaluate_split(head(3), digits())
    assert [m.training for m in model.modules()] == modes


def test_bf16_and_fp32_end_close(tmp_path: Path) -> None:
    ends = []
    for precision in ("fp32", "bf16"):
        config = replace(CONFIG, precision=precision)
        ends.append(train_model(net(), digits(), epochs=2, directory=tmp_path / precision, config=config))
    assert abs(ends[0].evaluation.loss - ends[1].evaluation.loss) < 0.1


def test_the_log_has_no_value_json_does_not_know(tmp_path: Path) -> None:
    train_model(net(), digits(), epochs=1, directory=tmp_path, config=CONFIG)
    for line in (tmp_path / "train.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in the log"))


class Viewing(nn.Module):
    """PyTorch's first tutorial: a view behind a convolution, which exists of contiguous activations only."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x).relu()
        return self.head(x.view(x.size(0), -1))


def test_a_network_that_takes_views_is_trained_with_contiguous_weights(tmp_path: Path) -> None:
    data = load_data("digits", input_shape=(1, 8, 8), limit=200)
    with pytest.raises(RuntimeError, match="view size"):
        Viewing().to(memory_format=torch.channels_last)(torch.randn(2, 1, 8, 8))
    for number, config in enumerate((CONFIG, replace(CONFIG, lr="auto"), replace(CONFIG, precision="bf16"))):
        result = train_model(Viewing(), data, epochs=1, directory=tmp_path / str(number), config=config)
        assert math.isfinite(result.evaluation.loss)
    taught = Distillation(Viewing())
    lesson = train_model(net(), data, epochs=1, directory=tmp_path / "lesson", config=CONFIG, distillation=taught)
    assert math.isfinite(lesson.evaluation.loss)
    small = rc.prune(Viewing(), data.normalise(data.test.images[:2]), rc.Budget(params="2x"))
    batches = calibration(data, 20)
    rc.prune(Viewing(), next(iter(batches))[0][:2], rc.Budget(params="2x"), trained=True, data=batches)
    train_model(
        small, data, epochs=1, directory=tmp_path / "small", config=replace(CONFIG, sparsity="group_lasso:5e-4")
    )


def test_strided_convolutions_of_few_channels_are_not_trained_in_channels_last() -> None:
    """PyTorch's gradient of them, in float32 on a CPU, writes past its buffers."""
    device = torch.device("cpu")
    for channels, kernel, stride, safe in (
        (4, 1, 2, False),
        (15, 1, 2, False),
        (16, 1, 2, True),
        (4, 1, 1, True),
        (4, 3, 2, True),
    ):
        net = nn.Sequential(nn.Conv2d(channels, 8, kernel, stride=stride))
        assert safe_in_channels_last(net, device=device, precision="fp32") is safe
        assert safe_in_channels_last(net, device=device, precision="bf16")
        assert safe_in_channels_last(net, device=torch.device("cuda"), precision="fp32")
