"""The flow is positive and linear by construction, whatever signs, gates, differences and constants a network has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import reconvene as rc
from reconvene.criteria import masks_at, score
from reconvene.criteria.flow import Flow
from reconvene.errors import CriterionError
from support.small_modules import Severed

Body = Callable[["Layers", Tensor], Tensor]


class Layers(nn.Module):
    """``i`` reads the input, ``a`` and ``b`` follow, ``o`` is the head; ``body`` lies between ``i`` and ``o``.

    Parameters and buffers of one dimension hold both signs, as after training.
    """

    def __init__(self, body: Body, width: int = 16) -> None:
        super().__init__()
        self.i, self.a, self.b, self.o = (nn.Linear(n, m) for n, m in ((12, width), *2 * ((width, width),), (width, 5)))
        self.scale, self.shift = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.power = nn.Parameter(torch.tensor([3.0]))
        self.register_buffer("constant", torch.randn(width))
        self.norm, self.body = nn.BatchNorm1d(width), body
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.body(self, self.i(x)))


def filled_in(net: Layers, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :] = -9.0
    out[:, :8] = net.a(x)[:, :8]
    out[:, 8:] = net.a(x)[:, 8:]
    return net.b(out)


def attention(net: Layers, x: Tensor) -> Tensor:
    tokens = x[:, None].expand(-1, 4, -1)
    mask = torch.triu(torch.full((4, 4), -torch.inf), 1)
    return (((tokens @ tokens.mT) * -0.25 + mask).softmax(-1) @ net.b(net.a(tokens)))[:, 0]


def standardised(net: Layers, x: Tensor) -> Tensor:
    y = net.b(net.a(x))
    spread = (y.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return (y - y.mean(1, keepdim=True)) / spread * net.scale + net.shift


def in_place(net: Layers, x: Tensor) -> Tensor:
    y = net.b(net.a(x))
    y -= 3.0
    y *= -2.0
    y.sub_(net.constant).mul_(net.scale).neg_()
    return y


ONE_WAY: dict[str, Body] = {  # everything flows through a and through b
    "negated": lambda net, x: -net.b(-net.a(x)),
    "differences with constants": lambda net, x: 1 - net.b(net.a(x) - net.constant),
    "negative scales": lambda net, x: net.b(net.a(x) * net.scale * -0.1) * net.constant - net.shift,
    "exponential and logarithm": lambda net, x: net.b(torch.exp(net.scale * net.a(x))).log1p(),
    "norm": lambda net, x: net.norm(net.b(net.norm(net.a(x)).relu())),
    "difference from its own maximum": lambda net, x: (y := net.b(net.a(x))) - y.max(1, keepdim=True)[0],
    "difference from its own soft maximum": lambda net, x: (y := net.b(net.a(x))) - y.logsumexp(1, keepdim=True),
    "generalised mean": lambda net, x: net.b(net.a(x).clamp(min=1e-6).pow(net.power)).pow(1.0 / net.power),
    "standardised by hand": standardised,
    "clipped by constants": lambda net, x: torch.maximum(net.b(net.a(x)), net.constant).clamp(0, 6),
    "rounded": lambda net, x: net.b((net.a(x) / 0.01).round() * 0.01),
    "one product and a bias": lambda net, x: torch.addmm(net.constant, net.a(x), net.b.weight.t()),
    "interpolated": lambda net, x: torch.lerp(torch.zeros_like(x), net.b(net.a(x)), 0.3),
    "filled in": filled_in,
    "in place": in_place,
    "attention with a mask": attention,
    "mixed by a Fourier transform": lambda net, x: net.b(torch.fft.fft(net.a(x)).real),
    "siamese": lambda net, x: net.b(net.a(x).relu()) - net.b(net.a(x * 0.5).relu()),
    "turned": lambda net, x: net.b(net.a(x)) * torch.cos(net.constant) + net.a(x).roll(1, 1) * 0.0,
    "padded": lambda net, x: F.pad(net.b(net.a(x))[:, 1:-1], (1, 1), value=-torch.inf),
    "selected": lambda net, x: torch.where(net.constant > 0, net.b(net.a(x)), -1e9),
}
BOTH: dict[str, Body] = {  # the flow is shared between a and b
    "closed gate": lambda net, x: (1 - torch.sigmoid(net.a(x))) * net.b(x).relu(),
    "gated unit": lambda net, x: F.glu(torch.cat([net.a(x), net.b(x)], 1), 1),
    "product in place": lambda net, x: net.a(x).mul_(net.b(x).sigmoid()),
    "difference of two": lambda net, x: net.a(x) - net.b(x),
    "product of two": lambda net, x: net.a(x) * net.b(x),
    "mixture by a gate": lambda net, x: (z := torch.sigmoid(x)) * net.a(x) + (1 - z) * net.b(x),
}


def flow_of(net: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """Scores, of which none was made positive by hand."""
    flow = Flow(net.eval(), inputs, small=False)
    views = flow.layout.views(flow.scores())
    assert flow._signed is False
    assert all(bool(view.isfinite().all() and (view >= 0).all() and view.any()) for view in views.values())
    return {name: view.double() for name, view in views.items()}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), kind=st.sampled_from([*ONE_WAY, *BOTH]), gain=st.sampled_from([1.0, 1e-6, 1e9]))
def test_what_flows_in_flows_out_whatever_the_signs(seed: int, kind: str, gain: float) -> None:
    torch.manual_seed(seed)
    net = Layers({**ONE_WAY, **BOTH}[kind])
    with torch.no_grad():
        net.a.weight.mul_(gain)
    flow = flow_of(net, torch.randn(2, 12))
    share = {name: float(flow[f"{name}.weight"].sum()) for name in "iabo"}
    assert share["o"] == pytest.approx(1.0, rel=1e-4)
    if kind in ONE_WAY:
        part = 0.5 if kind == "attention with a mask" else 1.0  # what it weighs by is a gate, which takes its half
        assert share["a"] == pytest.approx(part, rel=1e-4) and share["b"] == pytest.approx(part, rel=1e-4)
        assert share["i"] == pytest.approx(1.0, rel=1e-4)
    elif kind != "mixture by a gate":
        assert share["a"] + share["b"] == pytest.approx(1.0, rel=1e-4) == pytest.approx(share["i"], rel=1e-4)


@pytest.mark.parametrize("kind", [*ONE_WAY, *BOTH])
def test_every_kind_is_scored_as_its_mirror_image_is(kind: str) -> None:
    """No sign matters: neither of weights nor of scales nor of constants."""
    torch.manual_seed(0)
    net = Layers({**ONE_WAY, **BOTH}[kind])
    before = flow_of(net, torch.randn(2, 12))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name != "power":
                parameter.neg_()
        if kind != "selected":
            net.constant.neg_()
    after = flow_of(net, torch.randn(2, 12))
    assert all(torch.allclose(after[name], view, rtol=1e-4) for name, view in before.items())


class Views(nn.Module):
    """PyTorch's first tutorial: ``view`` of what a convolution made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(16 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.head(x.view(x.size(0), -1))


class Strided(Views):
    """It reads memory as it lies, which gives other numbers in another order."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.head(x.as_strided((len(x), 16 * 8 * 8), (16 * 8 * 8, 1)))


@pytest.mark.parametrize("kind", [Views, Strided])
def test_memory_formats_are_those_the_model_was_written_for(kind: type[Views]) -> None:
    torch.manual_seed(0)
    net = kind()
    found = flow_of(net, torch.randn(1, 3, 12, 12))
    assert all(float(view.sum()) == pytest.approx(1.0, rel=1e-4) for view in found.values())
    # what enters a channel leaves it: the head's weights lie channel by channel
    inside, outside = found["second.weight"].sum((1, 2, 3)), found["head.weight"].sum(0).view(16, 64).sum(1)
    assert torch.allclose(inside, outside, rtol=1e-4)
    assert int(
        sum(mask.sum() for mask in masks_at(net, 0.1, example_inputs=torch.randn(1, 3, 12, 12), rounds=3).values())
    )


OLD, NEW = nn.utils, nn.utils.parametrizations


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [OLD.weight_norm, NEW.weight_norm, OLD.spectral_norm, NEW.spectral_norm])
def test_norms_of_weights_are_neutral(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(norm(nn.Linear(6, 8)), nn.LeakyReLU(), norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 2))
    found = flow_of(net, torch.randn(1, 6))
    scored = [view for name, view in found.items() if "original0" not in name and "weight_g" not in name]
    assert len(scored) == 3 and all(float(view.sum()) == pytest.approx(1.0, rel=1e-4) for view in scored)


class Recurrent(nn.Module):
    """A recurrent layer, padded or packed, whose last state or whose outputs are read."""

    def __init__(self, kind: str, *, packed: bool = False, state: bool = False, **how: Any) -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(6, 8, num_layers=2, batch_first=True, **how)
        self.packed, self.state = packed, state
        size = how.get("proj_size", 8)
        self.head = nn.Linear(size * (2 if how.get("bidirectional") and not state else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        rows: Any = pack_padded_sequence(x, [5, 3], batch_first=True) if self.packed else x
        out, last = self.cell(rows)
        if self.state:
            return self.head((last[0] if isinstance(last, tuple) else last)[-1])
        return self.head((pad_packed_sequence(out, batch_first=True)[0] if self.packed else out)[:, 0])


RECURRENT: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("GRU", {}),
    ("LSTM", {"bias": False}),
    ("LSTM", {"proj_size": 4}),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "how", "state"),
    [
        *((kind, how, state) for kind, how in RECURRENT for state in (False, True)),
        ("GRU", {"bidirectional": True}, False),  # the last state is of one direction only
    ],
)
def test_recurrent_layers_pass_the_flow_through_every_weight(kind: str, how: Any, packed: bool, state: bool) -> None:
    torch.manual_seed(0)
    net = Recurrent(kind, packed=packed, state=state, **how)
    found = flow_of(net, torch.randn(2, 5, 6))
    ends = sum(float(view.sum()) for name, view in found.items() if "weight_ih_l0" in name)
    assert ends == pytest.approx(1.0, rel=1e-4) and float(found["head.weight"].sum()) == pytest.approx(1.0, rel=1e-4)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.a, self.b, self.f = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 5)
        self.reentrant = reentrant

    def part(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.b(x))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        inner = self.part(x) if self.reentrant is None else checkpoint(self.part, x, use_reentrant=self.reentrant)
        return self.f(inner.mean((2, 3)))


@pytest.mark.parametrize("criterion", ["synflow", "snip", "grasp"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_change_no_score(reentrant: bool, criterion: str) -> None:
    x, data = torch.randn(2, 3, 16, 16), [(torch.randn(4, 3, 16, 16), torch.arange(4) % 5)]
    found = []
    for kind in (reentrant, None):
        torch.manual_seed(0)
        found.append(score(Checkpointed(kind), x, criterion, data=data).scores)
    assert all(torch.equal(view, found[1][name]) for name, view in found[0].items())
    inner = checkpoint(torch.relu, x.requires_grad_(), use_reentrant=reentrant)  # and is as it was afterwards
    assert type(inner.grad_fn).__name__ == ("CheckpointFunctionBackward" if reentrant else "ReluBackward0")


def test_a_tensor_far_smaller_than_another_beside_it_is_nothing_and_no_nan() -> None:
    """A class token beside a signal that 60 layers have made 2 ** 180 times as large."""

    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deep = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(60)))
            self.token, self.q = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.cat([self.token.expand(len(x), -1, -1), self.deep(x)], 1)
            weights = (self.q(tokens[:, :1]) @ tokens.mT).softmax(-1)
            return self.head(tokens[:, 0] * -0.1 + (weights @ tokens)[:, 0])

    torch.manual_seed(0)
    net = Token()
    with torch.no_grad():
        for layer in net.deep:
            layer.weight.mul_(8)
    flow = Flow(net, torch.randn(1, 4, 8), small=False)
    views = flow.layout.views(flow.scores())
    assert all(bool(view.isfinite().all() and (view >= 0).all()) for view in views.values())
    # the gate that the token makes has no flow of its own to take its half of
    assert float(views["deep.0.weight"].sum()) == pytest.approx(0.5, rel=1e-4)
    assert float(views["head.weight"].sum()) == pytest.approx(1.0, rel=1e-4)


def test_what_cannot_be_scored_names_the_layer_and_other_criteria() -> None:
    class Refuses(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            raise RuntimeError("not on ones")

    for kind, says in (
        (Refuses, r"does not run on ones of 1x4 in 1 \(Refuses\)"),
        (Severed, r"first in 1 \(Severed\)"),
    ):
        net = nn.Sequential(nn.Linear(4, 4), kind(4, 4), nn.ReLU(), nn.Linear(4, 2))
        with pytest.raises(CriterionError, match=says + ".*'magnitude' and 'random' do not run the network"):
            score(net, torch.ones(1, 4))


@pytest.mark.parametrize("criterion", ["synflow", "magnitude", "random", None])
@pytest.mark.parametrize("kind", ["closed gate", "siamese", "differences with constants", "view"])
def test_such_networks_are_planned_by_every_criterion(kind: str, criterion: str | None) -> None:
    torch.manual_seed(0)
    net = Views() if kind == "view" else Layers({**ONE_WAY, **BOTH}[kind], width=32)
    inputs = torch.randn(2, 3, 12, 12) if kind == "view" else torch.randn(2, 12)
    plan = rc.plan(net.eval(), inputs, rc.Budget(params=0.5), criterion)
    small, silenced = plan.apply(net), plan.mask(net)
    assert torch.allclose(small(inputs), silenced(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_detection_heads_and_networks_as_they_are_created_are_scored() -> None:
    torchvision, timm = pytest.importorskip("torchvision"), pytest.importorskip("timm")
    torch.manual_seed(0)
    detector = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None).eval()
    token = timm.create_model("xcit_tiny_12_p16_224", pretrained=False)
    for net, inputs in ((detector, ([torch.randn(3, 64, 64)],)), (token, torch.randn(1, 3, 224, 224))):
        flow = Flow(net, inputs, small=True)
        scores = flow.scores()
        assert flow._signed is False and bool(scores.isfinite().all()) and bool(scores.any())


@pytest.mark.parametrize("fused", [False, True])
def test_attention_shares_the_flow_alike_however_it_is_written(fused: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, (self.q, self.k, self.v, self.o) = nn.Linear(12, 16), (nn.Linear(16, 16) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (layer(self.i(x)) for layer in (self.q, self.k, self.v))
            return self.o(F.scaled_dot_product_attention(q, k, v) if fused else (q @ k.mT / 4).softmax(-1) @ v)

    torch.manual_seed(0)
    found = flow_of(Attention(), torch.randn(2, 7, 12))
    shares = {"i": 1.0, "q": 0.25, "k": 0.25, "v": 0.5, "o": 1.0}
    assert {name: float(found[f"{name}.weight"].sum()) for name in shares} == pytest.approx(shares, rel=1e-4)
