"""Bits of a plan in a file: packed, permuted on the weight, computed in int8, and what the network computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene.deploy.on_device.unpack import unpack_weights
from reconvene.errors import ExportError, VerificationError
from reconvene.quantiser import fake_quantised, quantise
from reconvene.surgery.bits import BitPlan, LayerBits
from reconvene.training.frozen_bits import RoundedByBits
from reconvene.utils.machine import saturates
from support.mini_resnet import mini_resnet

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FLOAT_KERNELS = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


class Branches(nn.Module):
    """Concatenation, grouped and depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6())
        self.right = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Hardswish())
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.cat([self.left(x), self.right(x)], dim=1)))
        return self.head(self.depthwise(x).mean((2, 3)))


class Chain(nn.Module):
    """One-dimensional convolutions, then layers that read rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 9, 5, stride=2)
        self.first, self.second = nn.Linear(9, 13), nn.Linear(13, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(torch.relu(self.conv(x)).transpose(1, 2)))).mean(1)


class Attention(nn.Module):
    """A norm of its own, and products of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / 4, -1)
        return self.head((weights @ self.value(x)).mean(1))


def lively(model: nn.Module) -> nn.Module:
    """Norms as a trained network has them, some of which turn the sign."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(-1, 1.5, generator=generator)
    return model.eval()


NETS = {
    "residual": (lambda: mini_resnet((8, 12, 16)), (3, 16, 16)),
    "branches": (Branches, (3, 12, 12)),
    "chain": (Chain, (3, 20)),
    "attention": (Attention, (6, 16)),
    "plain": (lambda: nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 16, 3)), (3, 6, 6)),
}


def with_random_bits(name: str, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """A network whose channels have bits at random, as a plan of bits leaves it."""
    build, shape = NETS[name]
    torch.manual_seed(seed)
    model, images = lively(build()), torch.randn(24, *shape)
    generator = np.random.default_rng(seed)
    layers = {
        f"{path}.weight": LayerBits.of(0, generator.choice([2, 4, 8], len(module.weight)))
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)
    }
    plan = rc.plan(model, images[:1], rc.Budget(params=1.0))
    plan = replace(plan, bits=BitPlan(layers))
    small = plan.apply(model)
    return small, images


def optimised(path: Path, folder: Path) -> list[str]:
    """Operators that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def kernels_of_openvino(path: Path) -> set[tuple[str, str]]:
    """Layers with a weight that OpenVINO runs, with the type of what they compute in."""
    openvino = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    nodes = openvino.Core().compile_model(path, "CPU", settings).get_runtime_model().get_ordered_ops()
    facts = [node.get_rt_info() for node in nodes]
    kernels = {(fact["layerType"].astype(str), fact["runtimePrecision"].astype(str)) for fact in facts}
    return {kernel for kernel in kernels if kernel[0] in ("Convolution", "Deconvolution", "FullyConnected")}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NETS)
def test_interleaved_bits_compute_what_the_rounded_network_does(name: str, seed: int, tmp_path: Path) -> None:
    small, images = with_random_bits(name, seed)
    # Weights are compared with the rounded network's within 1e-4 as the file is written, activations by its limits.
    exported = rc.export(
        small, tmp_path, quantize="plan", calibration=[images], example_inputs=images[:1], task="regression"
    )
    assert exported.path.name == "model.plan.onnx" and exported.verification.sqnr > 25
    if name != "attention":  # products of activations behind a softmax stay as ONNX Runtime has them in int8 files
        assert not FLOAT_KERNELS & set(optimised(exported.path, tmp_path))


@pytest.mark.parametrize("name", NETS)
def test_openvino_computes_the_bits_of_a_plan_in_int8(name: str, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    small, images = with_random_bits(name, 0)
    exports = [
        rc.export(
            small,
            tmp_path / str(run),
            format="openvino",
            quantize="plan",
            calibration=[images],
            example_inputs=images[:1],
            task="regression",
        )
        for run in (0, 1)
    ]
    assert exports[0].path.name == "model.plan.xml" and exports[0].verification.sqnr > 25
    assert any("channels of 2 bits are stored in 4" in note for note in exports[0].notes)
    for first, second in zip(*(export.files for export in exports), strict=True):
        assert first.read_bytes() == second.read_bytes()
    if name != "attention" and not saturates():  # NNCF leaves layers behind a layer norm in float
        assert {precision for _, precision in kernels_of_openvino(exports[0].path)} <= {"u8", "i8"}


class Positive(nn.Module):
    """Layers whose products all have one sign, behind operations on integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(32, 8, 1)
        for layer in (self.first, self.second, self.third):
            nn.init.uniform_(layer.weight, 0.5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.first(x)), 2)
        return self.third(torch.cat([self.second(x), x[:, :, 1:-1, 1:-1]], 1))


@pytest.mark.parametrize(("bits", "kernels"), [(8, {"f32"}), (4, {"u8"})])
def test_openvino_adds_no_products_that_overflow(
    bits: int, kernels: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    from reconvene.deploy.runtimes.openvino import packed

    monkeypatch.setattr(packed, "saturates", lambda: True)  # as on x86 without VNNI
    torch.manual_seed(0)
    images = torch.rand(8, 3, 16, 16)
    small = rc.prune(Positive().eval(), images[:1], rc.Budget(params_bit=1.0), bits=(bits,), trained=True)
    options = {"format": "openvino", "calibration": [images], "example_inputs": images[:1], "task": "regression"}
    exported = rc.export(small, tmp_path, quantize="plan", **options)
    assert exported.verification.sqnr > 30
    assert {precision for _, precision in kernels_of_openvino(exported.path)} == kernels
    assert any("3 layers with channels of 8 bits" in note for note in exported.notes) == (bits == 8)


def stored_types(path: Path) -> dict[str, int]:
    """How many weights of layers a LiteRT file stores in which type."""
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    types = {value: name for name, value in vars(schema.TensorType).items()}
    stored: dict[str, int] = {}
    for graph in content.subgraphs:
        for tensor in graph.tensors:
            scales = None if tensor.quantization is None else tensor.quantization.scale
            if scales is not None and len(tensor.shape) > 1 and len(scales) > 1:
                kind = types[tensor.type]
                stored[kind] = stored.get(kind, 0) + 1
    return stored


@pytest.mark.parametrize("name", NETS)
def test_litert_computes_the_bits_of_a_plan_in_int8(name: str, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    small, images = with_random_bits(name, 0)
    options = {"calibration": [images], "example_inputs": images[:1], "task": "regression"}
    exported = rc.export(small, tmp_path, format="litert", quantize="plan", **options)
    assert exported.path.name == "model.plan.tflite" and exported.verification.sqnr > 25
    assert any("channels of 2 bits are stored in 4 or 8" in note for note in exported.notes)


def test_litert_stores_layers_of_four_bits_in_four(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    model, images = lively(mini_resnet((16, 32, 64))), torch.randn(16, 3, 16, 16)
    layers = {
        f"{path}.weight": LayerBits.of(0, np.full(len(module.weight), 8 if isinstance(module, nn.Linear) else 4))
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    small = replace(rc.plan(model, images[:1], rc.Budget(params=1.0)), bits=BitPlan(layers)).apply(model)
    options = {"format": "litert", "calibration": [images], "example_inputs": images[:1], "task": "regression"}
    int8, plan = (
        rc.export(small, tmp_path, quantize=how, limits=rc.deploy.Limits(sqnr=0), **options) for how in ("int8", "plan")
    )
    stored = stored_types(plan.path)
    assert stored["INT4"] == len(layers) - 1 and stored["INT8"] == 1, stored
    weights_of_four = sum(module.weight.numel() for module in small.modules() if isinstance(module, nn.Conv2d))
    assert int8.bytes - plan.bytes > 0.95 * weights_of_four / 2


def test_a_bench_times_the_file_of_a_plan_beside_int8() -> None:
    torch.manual_seed(0)
    model, images = lively(mini_resnet((16, 32, 64))), torch.randn(16, 3, 16, 16)
    few = rc.plan(model, images[:1], rc.Budget(size="25%"), bits=(0, 2, 4, 8), trained=True).apply(model)
    data = [(images, model(images).argmax(1))]
    evidence = rc.deploy.BenchData(calibration=[images], data=data, task="classification")
    result = rc.deploy.time_variants(
        {"dense": model, "pruned": few},
        images[:1],
        runtimes=("onnxruntime",),
        precisions=("fp32", "int8", "plan"),
        evidence=evidence,
        repeats=2,
    )
    rows = {(row.variant, row.precision): row for row in result.rows}
    assert list(rows) == [
        ("dense", "fp32"), ("dense", "int8"), ("pruned", "fp32"), ("pruned", "int8"), ("pruned", "plan"),
    ]  # fmt: skip
    plan = rows["pruned", "plan"]
    assert plan.size < rows["pruned", "int8"].size and plan.speedup_alike is not None
    assert plan.agreement is not None and plan.agreement > 0.8, "it is compared with the network of rounded weights"


def test_a_file_of_openvino_holds_half_the_bytes_of_int8(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    torch.manual_seed(0)
    model, images = lively(mini_resnet((16, 32, 64))), torch.randn(16, 3, 16, 16)
    layers = {
        f"{path}.weight": LayerBits.of(0, np.full(len(module.weight), 4))
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    small = replace(rc.plan(model, images[:1], rc.Budget(params=1.0)), bits=BitPlan(layers)).apply(model)
    options = {"format": "openvino", "calibration": [images], "example_inputs": images[:1], "task": "regression"}
    sizes = [
        rc.export(small, tmp_path, quantize=how, limits=rc.deploy.Limits(sqnr=0), **options).files[1].stat().st_size
        for how in ("int8", "plan")
    ]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.slow
def test_a_wrong_order_in_openvino_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")
    from reconvene.deploy.runtimes.openvino import packed

    small, images = with_random_bits("residual", 3)
    weight = packed._packed
    monkeypatch.setattr(packed, "_packed", lambda rows, bits, axis: weight(rows[::-1].copy(), bits[::-1], axis))
    with pytest.raises(VerificationError, match="packed weights compute something else"):
        rc.export(
            small,
            tmp_path,
            format="openvino",
            quantize="plan",
            calibration=[images],
            example_inputs=images[:1],
            task="regression",
        )


@pytest.mark.parametrize("name", ["residual", "plain"])
def test_the_unpacker_of_bundles_reads_the_integers_of_the_plan(name: str, tmp_path: Path) -> None:
    small, images = with_random_bits(name, 2)
    path = rc.export(
        small, tmp_path, quantize="plan", calibration=[images], example_inputs=images[:1], task="regression"
    ).path
    unpacked = list(unpack_weights(str(path)))
    plan, parameters = small.reconvene_plan.bits.layers, dict(small.named_parameters())
    assert len(unpacked) == len(plan)
    left = {name: quantise(parameters[name], layer.bits).integers.numpy() for name, layer in plan.items()}
    for integers, bits in unpacked:
        # A norm may have turned the sign of a channel.
        same = [
            name
            for name, expected in left.items()
            if expected.shape == integers.shape
            and all((a == b).all() or (a == -b).all() for a, b in zip(integers, expected, strict=True))
        ]
        assert same and bits.tolist() == plan[same[0]].bits.tolist()
        del left[same[0]]


class Repeated(nn.Module):
    """A layer that is called twice before two norms, one whose weight another has too, and a ReLU that is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.tied = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.last, self.owner = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied.weight = self.first_tied = nn.Parameter(torch.randn(8, 8, 3, 3) / 9)
        self.owner.weight = self.last.weight

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.first(x))
        for norm in self.norms:
            x = torch.relu(norm(self.twice(x)))
        x = nn.functional.conv2d(self.tied(x), self.first_tied).relu()
        z = torch.relu(self.last(torch.relu(self.owner(x.mean((2, 3))))))
        return {"features": x, "scores": self.last(z), "z": z}


def test_what_is_read_twice_or_is_an_output_is_in_the_file_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Repeated(), torch.randn(16, 3, 16, 16)
    for norm in model.norms:
        norm.running_var.uniform_(0.5, 2)
    small = rc.prune(model.eval(), images[:1], rc.Budget(params_bit="1.5x"), bits=(2, 4, 8), trained=True)
    path = rc.export(
        small, tmp_path, quantize="plan", calibration=[images], example_inputs=images[:1], task="regression"
    ).path
    plan = small.reconvene_plan.bits.layers
    expected = sorted(tuple(layer.bits) for layer in plan.values())
    assert len(plan) == 4 and sorted(tuple(bits) for _, bits in unpack_weights(str(path))) == expected
    assert not FLOAT_KERNELS & set(optimised(path, tmp_path))


def test_a_wrong_permutation_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconvene.deploy.runtimes.onnx import packed

    small, images = with_random_bits("residual", 3)
    functions = packed.weight_functions

    def unordered(helper, dtype, *, transposed):
        made = functions(helper, dtype, transposed=transposed)
        (gather,) = (node for function in made for node in function.node if node.op_type == "Gather")
        rows = gather.input[0]
        gather.op_type, gather.input[:] = "Identity", [rows]
        del gather.attribute[:]
        return made

    monkeypatch.setattr(packed, "weight_functions", unordered)
    with pytest.raises(VerificationError, match="packed weights compute something else"):
        rc.export(small, tmp_path, quantize="plan", calibration=[images], example_inputs=images[:1])


@pytest.mark.parametrize(
    "budget", ["20kB", *(pytest.param(size, marks=pytest.mark.slow) for size in ("30kB", "40kB", "60kB"))]
)
def test_a_file_takes_what_its_bits_take(budget: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(mini_resnet())
    images, labels = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    small = rc.prune(
        model,
        images[:1],
        rc.Budget(size=budget),
        bits=(0, 2, 4, 8),
        trained=True,
        data=[(images, labels)],
        rectify="keep",
    )
    plan = small.reconvene_plan
    # The plan remembers examples to calibrate on.
    limits = rc.deploy.Limits(agreement=0)
    exported = rc.export(small, tmp_path, quantize="plan", example_inputs=images[:1], limits=limits)
    size = plan.costs["pruned"]["size"]
    assert size < exported.bytes <= size * 1.05 + 3000
    again = rc.export(small, tmp_path / "again", quantize="plan", example_inputs=images[:1], limits=limits)
    assert exported.path.read_bytes() == again.path.read_bytes()


class Preactivated(nn.Module):
    """Norms in front of layers, which no layer takes in, and parameters that stay float32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(64 + 64 * i), nn.ReLU(), nn.Conv2d(64 + 64 * i, 64, 1), nn.BatchNorm2d(64))
            for i in range(6)
        )
        self.norm, self.slopes, self.head = nn.BatchNorm2d(448), nn.PReLU(448), nn.Linear(448, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.cat([x, block(x)], 1)
        return self.head(self.slopes(self.norm(x)).mean((2, 3)))


def test_norms_that_no_layer_takes_in_count_as_the_file_stores_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = lively(Preactivated()), torch.randn(4, 3, 8, 8)
    small = rc.prune(model, images[:1], rc.Budget(size="65kB"), bits=(2, 4, 8), trained=True)
    options = {"calibration": [images], "example_inputs": images[:1], "limits": rc.deploy.Limits(sqnr=0)}
    exported = rc.export(small, tmp_path, quantize="plan", task="regression", **options)
    size = small.reconvene_plan.costs["pruned"]["size"]
    left = [node for node in onnx.load(exported.path).graph.node if node.op_type == "BatchNormalization"]
    assert len(left) == 7  # six more are folded
    assert size < exported.bytes <= size * 1.05 + 3000


def with_few_bits_read(model: nn.Module, images: torch.Tensor, read: dict[str, int]) -> nn.Module:
    """The whole network with weights of 8 bits, whose layers read these bits."""
    parameters = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    layers = {name: LayerBits.of(0, np.full(len(p), 8)) for name, p in parameters.items()}
    plan = rc.plan(model, images[:1], rc.Budget(params=1.0))
    return replace(plan, bits=BitPlan(layers, inputs=read)).apply(model)


def exported_in_int8(small: nn.Module, folder: Path, images: torch.Tensor) -> tuple[Path, list[str]]:
    """The file of a plan of bits, whatever it loses, and the kernels that it is computed by."""
    options = {"calibration": [images], "example_inputs": images[:1], "task": "regression"}
    path = rc.export(small, folder, quantize="plan", limits=rc.deploy.Limits(sqnr=0), **options).path
    return path, optimised(path, folder)


@pytest.mark.parametrize(("layer", "bits"), [("3", 2), ("5", 4), ("8", 4)])
def test_layers_that_read_few_bits_compute_in_int8_what_training_does(layer: str, bits: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Hardtanh(), nn.Conv2d(8, 8, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(8 * 10 * 10, 5),
    )  # fmt: skip
    images = torch.randn(32, 3, 16, 16)
    small = with_few_bits_read(lively(model), images, {layer: bits})
    path, kernels = exported_in_int8(small, tmp_path, images)
    assert kernels.count("QLinearConv") == 3 and not FLOAT_KERNELS & set(kernels)
    rounded = RoundedByBits(small, small.reconvene_plan.bits)
    rounded.train()
    rounded.at(0.0)  # ranges are followed, from this one batch on
    rounded.network.eval()
    with torch.no_grad():
        rounded(images)
    expected: list[torch.Tensor] = []  # a hook behind the one that rounds
    small.get_submodule(layer).register_forward_pre_hook(lambda _, args: expected.append(args[0]))
    rounded.eval()
    with torch.no_grad():
        rounded(images)
    session = onnxruntime.InferenceSession(steps_as_outputs(path, tmp_path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    integers, beyond = (session.run(None, {name: factor * images.numpy()})[1] for factor in (1, 2))
    scale, zero = rounded.ranges()[layer]
    steps = torch.round(expected[0] / scale).numpy() + zero
    difference = np.abs(steps - integers.reshape(steps.shape))
    # Values close to the middle of two steps go either way, since the file rounds everything before them.
    assert difference.max() <= 1 and difference.mean() < 0.1
    assert beyond.max() == 2**bits - 1


def steps_as_outputs(path: Path, folder: Path) -> str:
    """The file with its integers of few bits as outputs."""
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Clip" and not node.input[1]:
            model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UINT8, None))
    onnx.save(model, folder / "steps.onnx")
    return str(folder / "steps.onnx")


def test_a_tensor_is_read_in_few_bits_by_one_layer_and_in_eight_by_another(tmp_path: Path) -> None:
    model, images = lively(mini_resnet((4, 8, 8))), torch.randn(8, 3, 16, 16)
    small = with_few_bits_read(model, images, {"stages.0.0.shortcut.0": 4})
    path, kernels = exported_in_int8(small, tmp_path, images)
    assert kernels.count("Clip") == 1 and not FLOAT_KERNELS & set(kernels)
    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    (clipped,) = [node for node in graph.node if node.op_type == "Clip"]
    rounded = made_by[clipped.input[0]].input[0]  # what is rounded again, as it is in 8 bits
    reading = [node.input[0] for node in graph.node if node.op_type == "Conv"]
    values = next(node for node in graph.node if clipped.output[0] in node.input).output[0]
    few = [name for name in reading if values in made_by[name].input]
    assert len(few) == 1 and reading.count(rounded) == 1 and len(reading) == 7


@pytest.mark.parametrize("bits", [(2,), (2, 4, 8)])
def test_a_file_is_compared_with_the_network_that_reads_few_bits(bits: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = lively(mini_resnet((8, 16, 16))), torch.randn(64, 3, 16, 16)
    data = [(images, torch.randint(0, 10, (64,)))]
    options = {"bits": (4, 8), "activation_bits": bits, "trained": True, "data": data, "rectify": "keep"}
    small = rc.prune(model, images[:1], rc.Budget(ops_bit="7x"), **options)
    assert 2 in small.reconvene_plan.bits.inputs.values()
    small.train()  # as artifacts are loaded
    exported = rc.export(small, tmp_path, quantize="plan", example_inputs=images[:1], task="regression")
    # Beside float32 activations the same file is further away.
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    small.eval()
    with torch.no_grad():
        plain = fake_quantised(small, small.reconvene_plan.bits.by_weight)(images).numpy()
    with pytest.raises(VerificationError, match="Plan with more activation_bits"):
        limits = rc.deploy.Limits(sqnr=60)
        rc.export(small, tmp_path, quantize="plan", example_inputs=images[:1], task="regression", limits=limits)
    sqnr = 10 * np.log10((plain**2).sum() / ((plain - output) ** 2).sum())
    assert exported.verification.sqnr > sqnr + 2, (exported.verification.sqnr, sqnr)


class TwoInputs(nn.Module):
    """Two inputs of the same shape, which come as a tuple or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(left) + self.second(right)))


@pytest.mark.parametrize("named", [False, True])
def test_remembered_examples_are_those_of_the_data_whatever_a_batch_is(named: bool, tmp_path: Path) -> None:
    torch.manual_seed(4)
    left, right, labels = torch.randn(48, 6), torch.randn(48, 6), torch.randint(0, 4, (48,))
    names, loss = {"left": left, "right": right}, None
    examples: Any = {name: values[:1] for name, values in names.items()} if named else (left[:1], right[:1])
    data = [{**names, "labels": labels}] if named else [((left, right), labels)]
    if named:
        loss = lambda output, batch: nn.functional.cross_entropy(output, batch["labels"])  # noqa: E731
    options: dict[str, Any] = {"bits": (2, 4, 8), "trained": True, "data": data, "loss": loss}
    small = rc.prune(TwoInputs().eval(), examples, rc.Budget(params_bit="1.5x"), **options)
    exporting: dict[str, Any] = {"quantize": "plan", "example_inputs": examples, "task": "regression"}
    remembered = rc.export(small, tmp_path / "remembered", **exporting).path
    given = rc.export(small, tmp_path / "given", calibration=[(names if named else (left, right), labels)], **exporting)
    assert remembered.read_bytes() == given.path.read_bytes()


class Spectrum(nn.Module):
    """Attention in one operator and a Fourier transform, which older and newer operator sets have otherwise."""

    def __init__(self, *, attends: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True) if attends else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = torch.fft.fft(x, dim=1).real if self.attention is None else self.attention(x, x, x, need_weights=False)[0]
        return self.last(x).mean(1)


@pytest.mark.parametrize(("opset", "attends"), [(18, False), (23, True)])
def test_files_of_every_operator_set_are_packed(opset: int, attends: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Spectrum(attends=attends).eval(), torch.randn(16, 6, 16)
    layers = {
        name: LayerBits.of(0, np.array([4, 8] * (len(p) // 2))) for name, p in model.named_parameters() if p.ndim > 1
    }
    small = replace(rc.plan(model, x[:1], rc.Budget(params=1.0)), bits=BitPlan(layers)).apply(model)
    options = {"calibration": [x], "example_inputs": x[:1], "task": "regression", "opset": opset}
    path = rc.export(small, tmp_path, quantize="plan", **options).path
    assert next(entry.version for entry in onnx.load(path).opset_import if not entry.domain) == opset


def test_a_layer_in_float32_reads_no_few_bits(tmp_path: Path) -> None:
    images = torch.randn(4, 3, 16, 16)
    small = with_few_bits_read(mini_resnet((4, 4, 4)).eval(), images, {"stem.0": 4})
    options = {"calibration": [images], "example_inputs": images[:1], "keep_fp32": ["stem.0"]}
    with pytest.raises(ExportError, match="Leave it out of keep_fp32"):
        rc.export(small, tmp_path, quantize="plan", **options)


class Grouped(nn.Module):
    """A transposed convolution in groups, a recurrent layer, and a weight that is computed from others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.grouped = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4)
        self.recurrent, self.head = nn.GRU(12, 10, batch_first=True), nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        return self.head(self.recurrent(x.mean(3).transpose(1, 2))[0][:, -1])


class Tied(nn.Module):
    """A table of tokens that is also the weight of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.hidden = nn.Embedding(500, 16), nn.Linear(16, 16)
        self.scores = nn.Linear(16, 500, bias=False)
        self.scores.weight = self.tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores(torch.relu(self.hidden(self.tokens(x))).mean(1))


ODD = {
    "grouped": (Grouped, torch.rand(8, 3, 6, 6), {"head.weight"}),
    "tied": (Tied, torch.arange(56).reshape(8, 7), {"hidden.weight", "tokens.weight"}),
}


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ODD)
def test_what_no_file_holds_in_few_bits_stays_out_of_the_plan(name: str, format: str, tmp_path: Path) -> None:
    if format == "openvino":
        pytest.importorskip("nncf")
    build, inputs, planned = ODD[name]
    torch.manual_seed(0)
    model = build().eval()
    options = {"format": format, "calibration": [inputs], "example_inputs": inputs[:1], "task": "regression"}
    assert rc.export(model, tmp_path, quantize="int8", **options).verification.sqnr > 20
    small = rc.prune(model, inputs[:1], rc.Budget(params_bit=1.0), bits=(4,), trained=True)
    assert set(small.reconvene_plan.bits.layers) == planned
    exported = rc.export(small, tmp_path, quantize="plan", **options)
    size = small.reconvene_plan.costs["pruned"]["size"]
    assert exported.verification.sqnr > 20 and (format == "openvino" or exported.bytes <= size * 1.05 + 3500)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_planned_layer_stays_in_float32_where_it_is_asked_for(format: str, tmp_path: Path) -> None:
    if format == "openvino":
        pytest.importorskip("nncf")
    small, images = with_random_bits("plain", 1)
    options = {"format": format, "calibration": [images], "example_inputs": images[:1], "task": "regression"}
    sizes = [
        rc.export(small, tmp_path, quantize="plan", **options, **kept).files[-1].stat().st_size
        for kept in ({}, {"keep_fp32": ["3"]})
    ]
    assert sizes[1] > sizes[0] + 2 * small[3].weight.numel()  # at most 8 bits became 32


def test_a_model_in_float64_is_not_quantised(tmp_path: Path) -> None:
    images = torch.rand(4, 3, 6, 6, dtype=torch.float64)
    model, options = NETS["plain"][0]().double().eval(), {"calibration": [images], "example_inputs": images[:1]}
    with pytest.raises(ExportError, match=r"0\.weight is in float64: export model\.float\(\)"):
        rc.export(model, tmp_path, quantize="int8", **options)


def test_formats_without_few_bits_of_activations_say_so(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    images = torch.randn(4, 3, 16, 16)
    small = with_few_bits_read(mini_resnet((4, 4, 4)).eval(), images, {"stem.0": 4})
    with pytest.raises(ExportError, match="format='onnx' holds them"):
        rc.export(small, tmp_path, format="openvino", quantize="plan", calibration=[images], example_inputs=images[:1])
    assert not list(tmp_path.iterdir())


def test_what_cannot_hold_a_plan_of_bits_says_why(tmp_path: Path) -> None:
    small, images = with_random_bits("plain", 4)
    with pytest.raises(ExportError, match="XNNPACK"):
        rc.export(
            small, tmp_path, format="executorch", quantize="plan", calibration=[images], example_inputs=images[:1]
        )
    with pytest.raises(ExportError, match="ncnn has no weights below 8 bits"):
        rc.export(small, tmp_path, format="ncnn", quantize="plan", calibration=[images], example_inputs=images[:1])
    with pytest.raises(ExportError, match="calibrated on real data"):
        rc.export(small, tmp_path, quantize="plan", example_inputs=images[:1])
    with pytest.raises(ExportError, match="no plan of bits"):
        rc.export(NETS["plain"][0](), tmp_path, quantize="plan", calibration=[images], example_inputs=images[:1])
