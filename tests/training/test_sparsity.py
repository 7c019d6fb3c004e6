"""Penalties while training: their gradients are what the papers say, and what they leave can be cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from reconvene.errors import TrainingError
from reconvene.training import TrainConfig, train_model
from reconvene.training.sparsity import Sparsity, parse_sparsity
from support.training_kills import CONFIG, digits, net

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0, 1.0, -0.1]))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def test_slimming_adds_the_sign_of_scales_and_nothing_else() -> None:
    model = convolutions()
    Sparsity(model, X, "slimming:0.01").add_gradients()
    assert torch.equal(model[1].weight.grad, torch.tensor([0.01, -0.01, 0.0, 0.01, 0.01, -0.01]))
    others = [p.grad for name, p in model.named_parameters() if name != "1.weight"]
    assert not any(grad.any() for grad in others)


def test_group_lasso_pulls_the_smallest_channel_sixteen_times_as_hard_as_the_largest() -> None:
    model = convolutions()
    Sparsity(model, X, "group_lasso:0.001").add_gradients()
    first, scale, second = model[0].weight.double(), model[1].weight.double(), model[3].weight.double()
    norms = (first.square().sum((1, 2, 3)) + scale.square() + second.square().sum((0, 2, 3))).sqrt()
    factors = 0.001 * 2 ** (4 * (norms.max() - norms) / (norms.max() - norms.min()))
    torch.testing.assert_close(model[0].weight.grad.double(), factors[:, None, None, None] * first)
    torch.testing.assert_close(model[1].weight.grad.double(), factors * scale)
    torch.testing.assert_close(model[3].weight.grad.double(), factors[None, :, None, None] * second)
    assert not model[0].bias.grad.any() and not model[3].bias.grad.any()


def test_equal_channels_are_pulled_alike() -> None:
    model = convolutions()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    Sparsity(model, X, "group_lasso:0.001").add_gradients()
    torch.testing.assert_close(model[0].weight.grad, 0.001 * model[0].weight)


def test_training_with_a_penalty_leaves_smaller_scales(tmp_path: Path) -> None:
    sizes = {}
    for sparsity in (None, "slimming:0.05"):
        model = net()
        config = replace(CONFIG, sparsity=sparsity)
        train_model(model, digits(), epochs=1, directory=tmp_path / str(sparsity), config=config)
        sizes[sparsity] = sum(float(m.weight.detach().abs().sum()) for m in model if isinstance(m, nn.BatchNorm2d))
    assert sizes["slimming:0.05"] < 0.9 * sizes[None]


def test_what_is_no_penalty_is_named() -> None:
    assert parse_sparsity("group_lasso") == ("group_lasso", 5e-4)
    with pytest.raises(TrainingError, match="unknown sparsity 'slim'"):
        parse_sparsity("slim:1e-4")
    with pytest.raises(TrainingError, match=r"'much' is not a strength above 0\. Try: slimming:0\.0001"):
        parse_sparsity("slimming:much")
    with pytest.raises(TrainingError, match=r"cannot train with .*unknown sparsity 'slim'.*Did you mean 'slimming'"):
        TrainConfig(sparsity="slim:1").check()
    with pytest.raises(TrainingError, match="no channels of this Sequential that can leave pass through a norm"):
        Sparsity(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4), "slimming")


def test_choices_that_older_runs_had_not_make_no_other_run_of_them() -> None:
    assert {"tail", "sparsity", "checkpoint_seconds"}.isdisjoint(TrainConfig().identity())
    assert (
        TrainConfig(tail=0.5, sparsity="slimming").identity().items() >= {"tail": 0.5, "sparsity": "slimming"}.items()
    )
