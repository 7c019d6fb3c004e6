"""Non-linear operations: forms are near what they replace, the best are chosen, and nothing forbidden is left."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reconvene as rc
from reconvene.allocation.choices import PricedChoice, choose_within
from reconvene.errors import BudgetError, ModelError, UnknownNameError
from reconvene.models import resolve_address
from reconvene.planning.operations import replacement
from reconvene.planning.operations.losses import fit_sites
from reconvene.surgery.operations import Replacement, blended, blends, find_sites, forms, substitute, unblended

ONNX_OF = {
    "Gelu": "gelu",
    "Erf": "gelu",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish",
    "Softmax": "softmax",
    "LayerNormalization": "layer_norm",
    "Relu": "relu",
    "Clip": "relu6",
    "Tanh": "tanh",
    "Exp": "exp",
}
"""What an operator of ONNX is in the table."""


class Gate(nn.Module):
    """Squeeze and excitation, with hard-swish around it, as MobileNetV3 has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(channels, channels, 3, padding=1), nn.Hardswish()
        self.pool, self.fc, self.gate = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        return x * self.gate(self.fc(self.pool(x)))


def gated() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.SiLU(), Gate(16), nn.Flatten(), nn.Linear(16 * 36, 4)).eval()


class Tokens(nn.Module):
    """One block of a transformer, every operation a module."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.soft = nn.LayerNorm(8), nn.Linear(8, 24), nn.Softmax(dim=-1)
        self.norm2, self.fc1, self.act, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.soft(q @ k.transpose(1, 2) * 8**-0.5) @ v
        return self.head((x + self.fc2(self.act(self.fc1(self.norm2(x))))).mean(1))


def tokens() -> Tokens:
    torch.manual_seed(0)
    return Tokens().eval()


def batches(*shape: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(32, *shape), torch.arange(32) % 4) for _ in range(2)]


@pytest.fixture(autouse=True)
def prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices by the number of steps: no test depends on this machine."""

    def price_forms(model, structure, sites, names, **options):  # type: ignore[no-untyped-def]
        return {s.path: {"kept": 4.5, **{n: float(len(forms()[n].steps)) for n in names[s.path]}} for s in sites}

    monkeypatch.setattr(replacement, "price_forms", price_forms)


@pytest.mark.parametrize(
    ("form", "reference", "error"),
    [
        ("gelu_sigmoid", F.gelu, 0.0069),
        ("integer_gelu", F.gelu, 0.0076),
        ("hardswish", F.silu, 0.055),
        ("relu", F.gelu, 0.127),
        ("relu", F.silu, 0.209),
        ("hardswish_relu", F.hardswish, 0.0),
        ("hardsigmoid_relu", F.hardsigmoid, 0.0),
        ("hardswish_relu6", F.hardswish, 0.0),
        ("hardsigmoid_relu6", F.hardsigmoid, 0.0),
    ],
)
def test_the_error_of_a_form_is_the_one_that_its_table_states(form: str, reference: object, error: float) -> None:
    assert callable(reference)
    x = torch.erfinv(torch.linspace(-1, 1, 100_002, dtype=torch.float64)[1:-1]) * 2**0.5  # N(0, 1) by its quantiles
    difference = Replacement(form).module(nn.Identity())(x) - reference(x)
    assert float(difference.square().mean().sqrt()) == pytest.approx(error, abs=0.06 * error + 1e-6)


def test_softmax_and_layer_norm_have_forms_without_exponentials_and_roots() -> None:
    x = torch.randn(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    soft = Replacement("integer_softmax").module(nn.Softmax(dim=-1))(x)
    assert float((soft - x.softmax(-1)).abs().max()) < 0.02
    assert torch.allclose(soft.sum(-1), torch.ones(64, dtype=torch.float64))
    norm = nn.LayerNorm(16).double()
    start = float((1.5 * x.var(1, unbiased=False).max()) ** -0.5)
    assert torch.allclose(Replacement("newton_layer_norm", (start,)).module(norm)(x), norm(x), atol=1e-3)


def test_polynomials_and_batch_norms_are_fitted_to_what_a_site_sees() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4)).eval()
    data = [(torch.randn(512, 8), torch.arange(512) % 4)]
    sites = find_sites(model, data[0][0][:1])
    names = {"0": ["batch_norm"], "1": ["polynomial2", "polynomial4"]}
    norm, relu = fit_sites(model, data[0][0][:1], sites, names, data=data, loss=None, seed=0)
    # Least squares of ReLU on N(0, 1): .1987 + .5 x + .2004 x^2. A layer norm of 8 numbers is nearly that.
    [two] = [module for text, module in relu.modules.items() if text.startswith("polynomial2")]
    assert list(two.coefficients) == pytest.approx([0.1987, 0.5, 0.2004], abs=0.04)  # type: ignore[arg-type]
    assert (
        relu.losses[str(Replacement("polynomial4", relu_numbers(relu.modules, "polynomial4")))]
        < relu.losses[str(Replacement("polynomial2", relu_numbers(relu.modules, "polynomial2")))]
    )
    x, y = data[0][0], model[0](data[0][0]).detach()
    for channel in (0, 5):
        slope, shift = np.polyfit(x[:, channel], y[:, channel], 1)  # all 512 rows were sampled
        assert torch.allclose(norm.modules["batch_norm"](x)[:, channel], x[:, channel] * slope + shift, atol=1e-3)


def relu_numbers(modules: dict[str, nn.Module], form: str) -> tuple[float, ...]:
    return next(Replacement.parse(text).numbers for text in modules if text.startswith(form))


def test_the_estimated_loss_is_the_second_order_term() -> None:
    """Of a loss that is a square, half the squared gradient is no curvature; of -log p(target) it is its mean."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).eval()
    x, y = torch.randn(16, 4), torch.arange(16) % 3
    sites = find_sites(model, x[:1])
    [site] = fit_sites(model, x[:1], sites, {"1": ["relu"]}, data=[(x, y)], loss=None, seed=0)
    expected = 0.0
    for row, target in zip(x, y, strict=True):
        hidden = model[0](row[None]).detach()
        given = F.gelu(hidden).requires_grad_()
        F.cross_entropy(model[2](given), target[None]).backward()
        assert given.grad is not None
        expected += float(((F.relu(hidden) - given) * given.grad).detach().square().sum()) / 2 / len(x)
    assert site.losses["relu"] == pytest.approx(expected, rel=1e-4)


def test_the_solver_finds_the_best_choice_of_all() -> None:
    generator = torch.Generator().manual_seed(3)
    places = [
        [PricedChoice(f"{i}{j}", float(torch.rand(1, generator=generator)), float(1 + j)) for j in range(3)]
        for i in range(5)
    ]
    for limit in (5.0, 8.0, 11.0, 15.0):
        every = [c for c in itertools.product(*places) if sum(p.price for p in c) <= limit]
        least = min(sum(p.loss for p in choice) for choice in every)
        chosen = choose_within(places, limit)
        assert chosen is not None and sum(p.price for p in chosen) <= limit
        assert sum(p.loss for p in chosen) <= least * 1.15 + 1e-9
    assert choose_within(places, 4.0) is None


def graph(model: nn.Module, x: Tensor, folder: Path) -> set[str]:
    exported = rc.export(model, folder, example_inputs=x, task="regression")
    nodes = {node.op_type for node in onnx.load(exported.path).graph.node}
    return {ONNX_OF[name] for name in nodes if name in ONNX_OF}


def test_only_what_is_allowed_is_left_in_the_exported_graph(tmp_path: Path) -> None:
    model, data = gated(), batches(3, 8, 8)
    x = data[0][0][:1]
    assert graph(model, x, tmp_path / "before") - {"relu", "relu6"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = rc.replace(model, x, allow=["relu", "relu6"], data=data)
    assert isinstance(model[1], nn.SiLU) and all((before[n] == v).all() for n, v in model.state_dict().items())
    assert graph(small, x, tmp_path / "after") <= {"relu", "relu6"}
    # hard-swish and hard-sigmoid are relu6, shifted and scaled: nothing is lost there
    assert torch.allclose(small[2](torch.ones(1, 16, 6, 6)), model[2](torch.ones(1, 16, 6, 6)), atol=1e-6)


def test_tokens_keep_additions_and_multiplications_alone(tmp_path: Path) -> None:
    model, data = tokens(), batches(5, 8)
    x = data[0][0][:1]
    small = rc.replace(model, x, allow=["relu"], data=data)
    assert graph(small, x, tmp_path) == {"relu"}
    assert {type(module).__name__ for module in (small.act, small.soft)} == {"IntegerGELU", "IntegerSoftmax"}
    fitted = rc.replace(model, x, allow=["polynomial", "softmax", "layer_norm"], data=data)
    assert type(fitted.act).__name__ == "Polynomial", "polynomials are for those who ask for them"
    assert float((small(data[0][0]) - model(data[0][0])).detach().abs().max()) < 0.1


def test_a_price_is_kept_by_what_loses_least() -> None:
    model, data = gated(), batches(3, 8, 8)
    result = replacement.choose_replacements(model, data[0][0][:1], budget=0.6, data=data)
    paid, before = (sum(getattr(row, name) for row in result.rows) for name in ("price_after", "price_before"))
    assert paid <= 0.6 * before
    assert 0 < len(result.replacements) <= 3
    with pytest.raises(BudgetError, match=r"cannot cost 1%.*it is"):
        rc.replace(model, data[0][0][:1], budget=0.01, data=data)


def test_a_blend_goes_from_one_to_the_other_also_where_the_old_one_writes_into_its_input() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Hardswish(inplace=True))
    after = substitute(copy.deepcopy(model), {"1": "relu"})
    mixed = blended(model, {"1": "relu"}, after, {})
    [blend] = blends(mixed).values()
    x = torch.randn(8, 4)
    for share in (0.0, 0.25, 1.0):
        blend.share = share
        expected = (1 - share) * F.hardswish(model[0](x)) + share * F.relu(model[0](x))
        assert torch.allclose(mixed(x), expected)
    blend.share = 0.5
    mixed(x).sum().backward()
    assert isinstance(unblended(mixed)[1], nn.ReLU)  # type: ignore[index]


def test_what_cannot_be_replaced_is_named() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(self.fc(x))

    data = [(torch.randn(8, 4), torch.arange(8) % 4)]
    with pytest.raises(ModelError, match="gelu in body: it is computed in a module that does more"):
        rc.replace(nn.Sequential(OrderedDict(body=Inside())), data[0][0], allow=["relu"], data=data)
    with pytest.raises(ModelError, match="softmax in 1: "):
        rc.replace(nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), data[0][0], allow=["relu6"], data=data)
    with pytest.raises(ModelError, match="log_softmax in 1: nothing can stand in the place of log_softmax"):
        rc.replace(nn.Sequential(nn.Linear(4, 4), nn.LogSoftmax(-1)), data[0][0], allow=["relu"], data=data)
    with pytest.raises(UnknownNameError, match=r"unknown operation 'relo'\. Did you mean 'relu'"):
        rc.replace(nn.Sequential(nn.Linear(4, 4)), data[0][0], allow=["relo"], data=data)


def test_an_artifact_keeps_what_was_replaced_also_of_a_network_that_was_pruned(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4))\n"
    )
    from reconvene.models import resolve_address

    source = resolve_address(f"{tmp_path / 'net.py'}:make", input_shape=(8,), allow_import=True)
    model, data = source.build(allow_import=True), [(torch.randn(64, 8), torch.arange(64) % 4)]
    x = data[0][0][:1]
    pruned = rc.prune(model, x, rc.Budget(params="2x"), round_to=1)
    small = rc.replace(pruned, x, allow=["relu"], data=data)
    assert type(small[1]).__name__ in ("ChannelsLastBatchNorm", "NewtonLayerNorm") and isinstance(small[2], nn.Module)
    rc.save(small, tmp_path / "a")
    again = rc.load(tmp_path / "a", allow_import=True)
    assert bool((again.eval()(data[0][0]) == small.eval()(data[0][0])).all())


class ChannelsFirst(nn.LayerNorm):
    """A norm over channels of pictures, as ConvNeXt has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "norm",
    [lambda: ChannelsFirst(8), lambda: nn.LayerNorm([8, 6, 6]), lambda: nn.LayerNorm(6, elementwise_affine=False)],
    ids=["channels first", "three dimensions", "no scale"],
)
def test_norms_of_other_shapes_get_only_forms_that_fit(norm: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 8, 3), norm(), nn.GELU(), nn.Flatten(), nn.Linear(288, 4))
    model, data = nn.Sequential(*body).eval(), [(torch.randn(8, 3, 8, 8), torch.arange(8) % 4)]
    allowed = ["relu", "layer_norm", "polynomial"]
    small = rc.replace(model, data[0][0][:1], allow=allowed, data=data)
    assert small(data[0][0]).shape == (8, 4) and not isinstance(small[2], nn.GELU)
    without = rc.replace(model, data[0][0][:1], budget=1.0, data=data)
    assert without(data[0][0]).shape == (8, 4)


class Shared(nn.Module):
    """One activation under two names, read by keyword once, and first of all one that writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.conv, self.conv2 = nn.Hardswish(inplace=True), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.act1 = self.act2 = nn.SiLU()
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(input=self.conv2(self.act1(self.conv(self.before(x)))))
        return self.head(x.flatten(1))


def test_a_shared_activation_is_replaced_under_all_its_names() -> None:
    model, data = Shared().eval(), batches(3, 8, 8)
    small = rc.replace(model, data[0][0][:1], allow=["relu6"], data=data)
    assert small.act1 is small.act2 and not isinstance(small.act1, nn.SiLU)
    assert not isinstance(small.before, nn.Hardswish) and small(data[0][0]).shape == (len(data[0][0]), 4)


@pytest.mark.parametrize("soft", [nn.Softmax2d(), nn.Softmax(dim=1), nn.Softmax(dim=-2)], ids=str)
def test_softmax_keeps_its_dimension(soft: nn.Module) -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Conv2d(3, 6, 3), soft, nn.Flatten(), nn.Linear(216, 4)).eval(), batches(3, 8, 8)
    small = rc.replace(model, data[0][0][:1], allow=["relu"], data=data)
    hidden = model[0](data[0][0])
    assert type(small[1]).__name__ == "IntegerSoftmax"
    assert float((small[1](hidden) - soft(hidden)).abs().max()) < 0.02


def test_frozen_layers_lose_by_forms_as_trained_ones_do() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.GELU(), nn.Flatten(), nn.Linear(32, 4)).eval()
    data = [(torch.randint(0, 9, (16, 4)), torch.arange(16) % 4)]
    trained = replacement.choose_replacements(model, data[0][0][:1], allow=["relu"], data=data)
    frozen = replacement.choose_replacements(model.requires_grad_(False), data[0][0][:1], allow=["relu"], data=data)
    assert frozen.rows == trained.rows and trained.rows[0].loss > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("activation", "operation"),
    [
        (nn.Hardshrink(), "hardshrink"),
        (nn.LogSigmoid(), "logsigmoid"),
        (nn.Softsign(), "abs"),
        (nn.Threshold(0.1, 20.0), "threshold"),
        (nn.Hardtanh(-1.0, 1.0), "clip"),
        (nn.RMSNorm(8), "rsqrt"),
    ],
    ids=str,
)
def test_operations_without_a_form_are_refused_by_name(activation: nn.Module, operation: str) -> None:
    data = [(torch.randn(16, 8), torch.arange(16) % 4)]
    model = nn.Sequential(nn.Linear(8, 8), activation, nn.Linear(8, 4))
    with pytest.raises(ModelError, match=f"{operation} in 1: "):
        rc.replace(model, data[0][0][:1], allow=["relu", "relu6"], data=data)


def test_prelu_becomes_relu_and_clips_are_told_by_their_bounds() -> None:
    data = [(torch.randn(16, 8), torch.arange(16) % 4)]
    small = rc.replace(nn.Sequential(nn.Linear(8, 8), nn.PReLU()), data[0][0][:1], allow=["relu"], data=data)
    assert isinstance(small[1], nn.ReLU)
    for clip, operation in ((nn.ReLU6(), "relu6"), (nn.Hardtanh(0.0, 6.0), "relu6"), (nn.Hardtanh(0.0, 5.0), "clip")):
        assert [site.operation for site in find_sites(nn.Sequential(nn.Linear(8, 8), clip), data[0][0])] == [operation]


class Turned(nn.Module):
    """GELU of the turned input, and what it gives stays turned."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x.transpose(1, 2))


class NormOfSecond(nn.LayerNorm):
    """A norm over the second of any number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


def test_a_module_that_turns_its_input_is_no_bare_activation() -> None:
    [site] = find_sites(nn.Sequential(nn.Linear(8, 8), Turned()), torch.randn(2, 5, 8))
    assert site.operation == "gelu" and not site.replaceable


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_norms_over_the_second_dimension_become_batch_norms_of_their_rank(rank: int) -> None:
    torch.manual_seed(0)
    conv = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[rank](3, 8, 1)
    data = batches(3, *(4,) * (rank - 2))
    model = nn.Sequential(conv, NormOfSecond(8), nn.Flatten(), nn.Linear(8 * 4 ** (rank - 2), 4)).eval()
    result = replacement.choose_replacements(model, data[0][0][:1], allow=[], data=data)
    assert result.replacements["1"].startswith("batch_norm") and result.model(data[0][0]).shape == (len(data[0][0]), 4)
    assert substitute(copy.deepcopy(model), result.replacements)(data[0][0]).shape == (len(data[0][0]), 4), (
        "as artifacts do"
    )


@pytest.mark.parametrize("name", ["resnet8", "vgg16_bn", "mobilenetv2", "unet"])
def test_every_operation_of_our_own_networks_can_be_replaced(name: str) -> None:
    net, images = resolve_address(name, {"width": 0.25}).build(), torch.randn(2, 3, 32, 32)
    data = [(images, net.eval()(images).detach())]
    small = rc.replace(net, images, allow=["polynomial"], data=data, loss=F.mse_loss)
    assert not any(isinstance(module, nn.ReLU | nn.ReLU6) for module in small.modules())
