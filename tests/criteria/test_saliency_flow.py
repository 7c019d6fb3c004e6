"""Synaptic flow: conservation, any depth in float32, every kind of layer, small inputs."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reconvene.criteria import masks_at, score
from reconvene.criteria.flow import Flow
from reconvene.errors import CriterionError
from support.small_modules import Severed


def convolutional(width: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
        nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
        nn.GroupNorm(2, 2 * width),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * 4, 5),
    )


def randomise_norms(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 3.0)
    return net


def test_flow_is_conserved_layer_by_layer_and_unit_by_unit() -> None:
    net = randomise_norms(convolutional())
    found = score(net, torch.randn(4, 3, 8, 8), "synflow", rounds=1).scores
    for name in ("0.weight", "3.weight", "8.weight"):
        assert float(found[name].double().sum()) == pytest.approx(1.0, rel=1e-5)
    # what enters a hidden channel leaves it
    assert torch.allclose(found["0.weight"].sum((1, 2, 3)), found["3.weight"].sum((0, 2, 3)), rtol=1e-4)
    assert torch.allclose(found["3.weight"].sum((1, 2, 3)), found["8.weight"].sum(0).view(12, 4).sum(1), rtol=1e-4)


class Branched(nn.Module):
    """Residual in place, concatenation, depthwise, slices, and a second output, all positively homogeneous."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        stem = F.relu(self.stem(images))
        body = self.body(stem)
        body += stem
        joint = self.depthwise(torch.cat([body, stem], dim=1)).mean((2, 3))
        first, second = joint.chunk(2, dim=1)
        return {"left": self.left(first), "right": self.right(second) * 0.5}


def plain_scores(net: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """The definition, word for word, in float64."""
    twin = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.zero_() if name.endswith("bias") else parameter.abs_()
    outputs = twin(torch.ones_like(inputs, dtype=torch.float64))
    total = sum(value.sum() for value in (outputs.values() if isinstance(outputs, dict) else [outputs]))
    named = {name: parameter for name, parameter in twin.named_parameters() if not name.endswith("bias")}
    gradients = torch.autograd.grad(total, list(named.values()))
    return {
        name: weight.detach() * gradient / total.detach()
        for (name, weight), gradient in zip(named.items(), gradients, strict=True)
    }


@pytest.mark.parametrize("gain", [1.0, 3.0**20, 3.0**-20])
def test_flow_equals_its_definition_on_branches_of_any_scale(gain: float) -> None:
    net, inputs = Branched(), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("body"):
                parameter.mul_(gain)
    found = score(net, inputs, "synflow", rounds=1).scores
    for name, expected in plain_scores(net, inputs[:1]).items():
        assert torch.allclose(found[name].double(), expected, rtol=1e-4, atol=1e-12), name


@pytest.mark.parametrize("gain", [64.0, 1 / 64.0])
def test_three_hundred_layers_stay_in_the_range_of_float32(gain: float) -> None:
    # R is 2 ** (6 * 300) or its inverse: beyond float64
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(300)))
    with torch.no_grad():
        for layer in net:
            layer.weight.abs_().mul_(gain / layer.weight.abs().sum(1).mean())
    flow = Flow(net, torch.ones(1, 4), small=False)
    views = flow.layout.views(flow.scores())
    assert all(float(view.sum()) == pytest.approx(1.0, rel=1e-3) for view in views.values())
    assert flow.log2_total() / 300 == pytest.approx(6.0 if gain > 1 else -6.0, abs=0.5)


class Attention(nn.Module):
    """An embedding, multi-head attention, a gate, and a dataclass for output."""

    @dataclass
    class Output:
        logits: Tensor
        ids: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.gate, self.main, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Attention.Output:
        tokens = self.embedding(ids)
        tokens = self.norm(tokens + self.attention(tokens, tokens, tokens)[0])
        tokens = torch.sigmoid(self.gate(tokens)) * F.silu(self.main(tokens))
        return self.Output(self.head(tokens.mean(1)), ids)


def test_token_ids_gates_and_attention_carry_flow_to_every_weight() -> None:
    found = score(Attention(), {"ids": torch.randint(0, 11, (2, 7))}, "synflow", rounds=1)
    for name, view in found.scores.items():
        assert (view > 0).all(), name
    sums = {name: float(view.sum()) for name, view in found.scores.items()}
    assert sums["gate.weight"] == pytest.approx(0.5, rel=1e-4)  # a product shares its flow
    assert sums["main.weight"] == pytest.approx(0.5, rel=1e-4)
    assert sums["head.weight"] == pytest.approx(1.0, rel=1e-4)
    assert sums["embedding.weight"] == pytest.approx(1.0, rel=1e-4)  # and all of it arrives


class HandMade(nn.Module):
    """A norm and a squared activation written out, a strided convolution of one pixel, two activations in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 1, stride=2), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x)) ** 2
        x = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        x = F.relu(self.norm(F.relu(self.body(x))), inplace=True)
        return self.head((x / x.square().sum(1, keepdim=True).sqrt()).mean((2, 3)))


def test_norms_and_powers_written_by_hand_conserve_flow() -> None:
    torch.manual_seed(0)
    found = score(HandMade(), torch.randn(1, 3, 128, 128), "synflow", rounds=1).scores
    for name in ("stem.weight", "body.weight", "head.weight"):
        assert float(found[name].double().sum()) == pytest.approx(1.0, rel=1e-4) and bool((found[name] > 0).all())


def test_a_normalised_weight_that_a_mask_empties_gives_zero_and_not_nothing() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 2))
    found = score(net, torch.randn(1, 6), "synflow", rounds=3, density=0.05)
    assert all(bool(view.isfinite().all()) for view in found.scores.values())
    assert all(bool(np.isfinite(curve).all()) for curve in found.densities.values())


class Multiplied(nn.Module):
    """Tokens are multiplied with each other in every block, a class token only reads; the classes are its own."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.left, self.right, self.own = (nn.ModuleList(nn.Linear(8, 8) for _ in range(depth)) for _ in range(3))
        self.token, self.head = nn.Parameter(torch.ones(1, 1, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for left, right, own in zip(self.left, self.right, self.own, strict=True):
            product = left(x[:, 1:]) * right(x[:, 1:])
            x = torch.cat([own(x[:, :1]) + product.mean(1, keepdim=True), x[:, 1:] + product], 1)
        return self.head(x[:, 0])


def test_products_of_signals_neither_swallow_the_rest_nor_make_flow() -> None:
    torch.manual_seed(0)
    found = score(Multiplied(20), torch.randn(2, 5, 8), "synflow", rounds=1).scores
    assert all(bool(v.isfinite().all() and (v > 0).all()) for k, v in found.items() if k != "token")
    assert float(found["head.weight"].double().sum()) == pytest.approx(1.0, rel=1e-5)
    # a product shares the flow between its factors, and what enters a block leaves it
    for left, right in zip(
        *([found[f"{side}.{i}.weight"] for i in range(20)] for side in ("left", "right")), strict=True
    ):
        assert float(left.sum()) == pytest.approx(float(right.sum()), rel=1e-4)


def test_densities_are_those_of_the_criterions_own_masks() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40, bias=False), nn.ReLU(), nn.Linear(40, 10, bias=False))
    for criterion, rounds in (("random", None), ("magnitude", None), ("synflow", 7)):
        found = score(net, torch.ones(1, 40), criterion, density=0.1, rounds=rounds)
        masked = masks_at(net, 0.1, criterion, example_inputs=torch.ones(1, 40), rounds=rounds)
        for name, mask in masked.items():
            assert found.densities[name][-1] == float(mask.double().mean())


def test_scores_alone_are_those_of_the_dense_network_and_follow_no_levels() -> None:
    net, inputs = convolutional(), torch.randn(1, 3, 8, 8)
    for criterion in ("synflow", "magnitude", "random"):
        alone, followed = (score(net, inputs, criterion, levels=levels) for levels in (False, True))
        assert alone.levels.size == 0 and alone.densities == {} and "density" not in str(alone)
        assert all(torch.equal(view, followed.scores[name]) for name, view in alone.scores.items())


def test_levels_and_densities_fall_from_one_to_the_target() -> None:
    net, inputs = convolutional(), torch.randn(1, 3, 8, 8)
    for criterion, rounds in [("synflow", None), ("synflow", 1), ("magnitude", None), ("random", 5), ("synflow", 100)]:
        found = score(net, inputs, criterion, rounds=rounds, density=0.1)
        assert found.levels[0] == 1.0 and found.levels[-1] == pytest.approx(0.1)
        assert (found.levels[1:] < found.levels[:-1]).all() and len(found.levels) <= 41
        for name, view in found.scores.items():
            path = found.densities[name]
            assert path.shape == found.levels.shape and path[0] == 1.0
            assert (path[1:] <= path[:-1] + 1e-12).all() and (path >= 0).all()
            assert view.shape == dict(net.named_parameters())[name].shape and view.dtype == torch.float32
        weighted = sum(found.densities[name][-1] * view.numel() for name, view in found.scores.items())
        assert weighted <= 0.1 * sum(view.numel() for view in found.scores.values()) + 1


def test_density_one_has_one_level() -> None:
    for criterion in ("synflow", "random"):
        found = score(convolutional(), torch.randn(1, 3, 8, 8), criterion, density=1.0)
        assert found.levels.tolist() == [1.0]
        assert all(path.tolist() == [1.0] for path in found.densities.values())


def test_parts_the_forward_pass_never_reaches_score_zero() -> None:
    net = convolutional()
    net.add_module("auxiliary", nn.Identity())
    net.auxiliary.register_parameter("weight", nn.Parameter(torch.ones(3, 3)))
    found = score(net, torch.randn(1, 3, 8, 8), "synflow", rounds=1)
    assert not found.scores["auxiliary.weight"].any()
    assert found.densities["auxiliary.weight"][0] == 1.0


def test_a_small_input_is_used_only_where_kernels_stay_filled() -> None:
    deep = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.Conv2d(4, 4, 5, padding=2, stride=8), nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    given = torch.randn(5, 3, 224, 224)
    found = score(deep, given, "synflow", rounds=1)
    assert found.input == "ones 1x3x48x48 (given 5x3x224x224)"  # 16 times smaller: the last kernel sees 3 x 3
    assert all((view > 0).all() for view in found.scores.values())
    rigid = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Flatten(), nn.Linear(4 * 16 * 16, 2))
    assert score(rigid, torch.randn(2, 3, 64, 64), "synflow").input == "ones 1x3x64x64 (given 2x3x64x64)"


def test_outputs_that_cannot_be_summed_are_an_error() -> None:
    class Labels(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).argmax(-1)

    with pytest.raises(CriterionError, match="no floating tensor"):
        score(Labels(2, 2), torch.ones(1, 2))
    with pytest.raises(CriterionError, match=r"no signal reaches the output.*first in 1 \(Severed\).*'magnitude'"):
        score(nn.Sequential(nn.Linear(2, 2), Severed(2, 2)), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("name", "side"),
    [("resnet50", 64), ("densenet121", 64), ("mobilenet_v2", 96), ("efficientnet_b0", 64), ("mobilenet_v3_small", 96)],
)
def test_deep_classifiers_neither_overflow_nor_lose_a_layer(name: str, side: int) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    flow = Flow(torchvision.models.get_model(name), torch.randn(1, 3, side, side), small=False)
    scores = flow.layout.views(flow.scores())
    assert all(torch.isfinite(view).all() and view.any() for view in scores.values())
    last = flow.layout.names[-1]
    assert float(scores[last].double().sum()) == pytest.approx(1.0, rel=1e-3)
    assert float(next(iter(scores.values())).double().sum()) == pytest.approx(1.0, rel=1e-3)


class CachesInEval(nn.Module):
    """Keeps a table of its weights in eval mode until it is set to train, as LeViT does with its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(4, 6), nn.Parameter(torch.randn(6, 6)), nn.Linear(6, 2)
        self.tables: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> CachesInEval:
        super().train(mode)
        if mode:
            self.tables = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.last(self.first(x) @ self.mix)
        table = self.tables.setdefault(str(x.device), self.mix.abs())
        return self.last(self.first(x) @ table)


@pytest.mark.parametrize("criterion", ["synflow", "snip"])
def test_a_table_of_an_earlier_run_takes_no_part(criterion: str) -> None:
    torch.manual_seed(0)
    fresh, run = CachesInEval().eval(), CachesInEval().eval()
    run.load_state_dict(fresh.state_dict())
    run(torch.randn(3, 4))
    run.double()  # the table stays in float32, and LeViT's product of both is refused
    fresh.double()
    x = torch.randn(3, 4).double()
    results = [score(model, x, criterion, data=[(x, torch.tensor([0, 1, 0]))], rounds=1) for model in (fresh, run)]
    assert run.tables["cpu"].dtype == torch.float32
    for name, values in results[0].scores.items():
        assert torch.equal(values, results[1].scores[name]), name
