"""Fine-tuning with frozen bits: what is trained and measured is the network with the roundings of its file."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene import artifact
from reconvene.data import load_data, stratified_calibration
from reconvene.deploy import Limits
from reconvene.deploy.planned import as_file_computes
from reconvene.models import ModelSource
from reconvene.quantiser import fake_quantised
from reconvene.quantiser.activations import ActivationRange
from reconvene.surgery.bits import BitPlan, LayerBits
from reconvene.surgery.history import note_plans
from reconvene.training import TrainConfig, evaluate_split, train_model
from reconvene.training.frozen_bits import FrozenBits, RoundedByBits, trained_ranges

onnx = pytest.importorskip("onnx")


def network() -> tuple[nn.Module, BitPlan]:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 10)
    )
    layers = {
        "0.weight": LayerBits.of(0, np.array([2, 4, 8, 2, 4, 8])),
        "4.weight": LayerBits.of(0, np.array([4] * 10)),
    }
    return model, BitPlan(layers)


def test_training_measures_the_rounded_network_and_gives_its_ranges(tmp_path: Path) -> None:
    data = load_data("digits", input_shape=(1, 8, 8), limit=300)
    model, bits = network()
    config = TrainConfig(lr=0.05)
    result = train_model(model, data, epochs=2, directory=tmp_path, config=config, quantising=FrozenBits(bits))
    assert set(result.ranges) == {"0", "4"} and all(0 <= zero <= 255 for _, zero in result.ranges.values())
    rounded = evaluate_split(fake_quantised(model, bits.by_weight), data)  # without the rounding of activations
    assert abs(rounded.score - result.score) < 0.05 and abs(rounded.loss - result.evaluation.loss) < 0.05
    assert abs(evaluate_split(model, data).loss - result.evaluation.loss) > abs(rounded.loss - result.evaluation.loss)
    assert set(model.state_dict()) == set(network()[0].state_dict())


def test_rounded_activations_are_those_of_integers_with_a_zero_point() -> None:
    values = torch.tensor([[-1.0, 0.0, 0.5, 3.0, 9.0]])
    of_layer = ActivationRange()
    of_layer.follow(torch.tensor([-1.0, 4.1]))
    scale, zero = float(of_layer.scale), int(of_layer.zero_point)
    integers = np.clip(np.rint(values.numpy() / scale) + zero, 0, 255)
    assert np.allclose(of_layer(values).numpy(), (integers - zero) * scale) and float(of_layer(values)[0, 1]) == 0.0


def test_a_step_goes_to_the_weights_themselves() -> None:
    model, bits = network()
    rounded = RoundedByBits(model, bits).train()
    images = torch.randn(8, 1, 8, 8)
    expected = fake_quantised(model, bits.by_weight).train()(images)
    rounded.at(1.0)  # ranges stand still, and none was seen: activations are as they are
    assert torch.allclose(rounded(images), expected, atol=1e-5)
    rounded(images).square().sum().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in model.parameters())


def test_a_file_computes_in_the_ranges_of_training(tmp_path: Path) -> None:
    data = load_data("digits", input_shape=(1, 8, 8), limit=300)
    source = ModelSource("resnet8", {"num_classes": 10, "width": 0.25, "in_channels": 1}, (1, 8, 8), 3)
    model = source.build()
    plan = rc.plan(model, torch.randn(1, 1, 8, 8), rc.Budget(params=1.0))
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    layers = {name: LayerBits.of(0, np.full(len(p), 8)) for name, p in weights.items()}
    few = {name.removesuffix(".weight"): 2 for name in weights if not name.startswith(("stem", "head"))}
    artifact.save(replace(plan, bits=BitPlan(layers, inputs=few)).apply(model), tmp_path, source=source)
    training = rc.train(tmp_path, data, epochs=3, config=TrainConfig(lr=0.1, batch_size=32))
    trained = rc.load(tmp_path)
    bits = trained.reconvene_plan.bits
    assert bits.trained.steps.keys() == few.keys()
    forgetful = copy.deepcopy(trained)
    note_plans(forgetful, [replace(trained.reconvene_plan, bits=replace(bits, trained=None))])
    losses = [evaluate_split(as_file_computes(each, data), data).loss for each in (trained, forgetful)]
    found, measured = (abs(loss - training.loss) for loss in losses)
    assert found < 0.02 * training.loss and found < 0.5 * measured  # training rounds to 8 bits elsewhere as well
    inputs, calibration = data.train.images[:1].float(), stratified_calibration(data, 64)
    limits = Limits(sqnr=0, agreement=0, accuracy_drop=1)
    options = {"quantize": "plan", "example_inputs": torch.zeros_like(inputs), "limits": limits}
    made = rc.export(trained, tmp_path / "file", calibration=calibration, **options)
    single = [onnx.numpy_helper.to_array(t) for t in onnx.load(made.path).graph.initializer if not t.dims]
    scales = {round(float(value), 9) for value in single}
    assert {round(scale, 9) for scale, _ in bits.trained.steps.values()} <= scales
    with torch.no_grad():
        next(trained.parameters()).mul_(1.01)
    assert trained_ranges(trained, bits) == {}  # of other weights
