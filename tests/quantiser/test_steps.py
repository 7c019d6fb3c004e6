"""Fake quantisation is the arithmetic of the runtime: bit for bit in one operator, within a step in a whole file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.deploy import run_file
from reconvene.quantiser import to_steps
from reconvene.quantiser.activations import ActivationRange
from reconvene.surgery.bits import BitPlan, LayerBits
from reconvene.training.frozen_bits import RoundedByBits
from support.small_modules import ByKeyword

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def in_onnx_runtime(values: torch.Tensor, scale: float, zero_point: int) -> np.ndarray:
    """QuantizeLinear and DequantizeLinear of uint8, as ONNX Runtime computes them."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants = [
        helper.make_tensor("s", float32, [], [scale]),
        helper.make_tensor("z", onnx.TensorProto.UINT8, [], [zero_point]),
    ]
    ends = [helper.make_tensor_value_info(name, float32, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "steps", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values.numpy()})[0]


def test_rounding_equals_onnx_runtime_bit_for_bit_also_half_way_between_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    of_layer = ActivationRange()
    of_layer.follow(torch.tensor([-3.1, 7.7]))
    half_way = (torch.randint(-120, 250, (20_000,), generator=generator) + 0.5) * of_layer.scale
    values = torch.cat([4 * torch.randn(20_000, generator=generator), half_way])
    expected = in_onnx_runtime(values, float(of_layer.scale), int(of_layer.zero_point))
    assert np.array_equal(of_layer(values).numpy(), expected)
    by_reciprocal = torch.fake_quantize_per_tensor_affine(values, of_layer.scale, of_layer.zero_point, 0, 255)
    assert not np.array_equal(by_reciprocal.numpy(), expected), "PyTorch's operator would do: use it"


def test_gradients_pass_within_the_range_and_channels_have_their_own_steps() -> None:
    values = torch.tensor([[-1.0, 0.3, 2.6], [-1.0, 0.3, 2.6]], requires_grad=True)
    rounded = to_steps(values, torch.tensor([1.0, 0.5]), torch.tensor([0, 1]), 0, 3, axis=0)
    assert rounded.tolist() == [[0.0, 0.0, 3.0], [-0.5, 0.5, 1.0]]
    rounded.sum().backward()
    assert values.grad.tolist() == [[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]


def test_the_network_of_a_training_with_bits_computes_what_its_file_does(tmp_path: Path) -> None:
    """Within one step of the last tensor, and nearly everywhere the same integer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 9, 10),
    ).eval()  # fmt: skip
    model[1].running_mean.normal_(0, 0.1), model[1].running_var.uniform_(0.5, 2)
    bits = BitPlan({f"{n}.weight": LayerBits.of(0, np.full(len(model[n].weight), 8)) for n in (0, 3, 6)})
    images = torch.randn(64, 3, 8, 8)
    small = replace(rc.plan(model, images[:1], rc.Budget(params=1.0)), bits=bits).apply(model).eval()
    options = {"calibration": [images], "example_inputs": images[:1], "task": "regression"}
    path = rc.export(small, tmp_path, quantize="plan", **options).path
    (found,) = run_file(path, images).values()

    network = RoundedByBits(small, bits).eval()
    network(images)  # no range is known: weights alone are rounded, as when the file was calibrated
    read = {name: [] for name in ("0", "3", "6")}
    hooks = [small[int(n)].register_forward_pre_hook(lambda _, args, n=n: read[n].append(args[0])) for n in read]
    with torch.no_grad():
        reference = network(images)
        for hook in hooks:
            hook.remove()
        for values, of_layer in zip(read.values(), network.rounding[0].ranges, strict=True):
            of_layer.follow(values[0])
        low, high = torch.aminmax(reference)
        last = ActivationRange()
        last.follow(torch.stack([low, high]))
        steps = torch.round((last(network(images)) - found) / last.scale)
    assert float(steps.abs().max()) <= 1
    assert float((steps != 0).float().mean()) < 0.05


def test_inputs_by_keyword_are_rounded_too() -> None:
    torch.manual_seed(0)
    model = ByKeyword(3).eval()
    bits = BitPlan({"fc.weight": LayerBits.of(0, np.full(3, 8))})
    network = RoundedByBits(model, bits)
    network.train()
    network(torch.linspace(-1, 1, 40).reshape(10, 4))
    ((scale, _),) = network.rounding[0].scales().values()
    assert scale == pytest.approx(2 / 255, rel=0.02)
