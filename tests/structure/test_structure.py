"""Groups on small networks worked out by hand, one mechanism each; names of known failures of other tools are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reconvene.errors import ModelError
from reconvene.structure import Group, analyse
from support.proof import prove, share_kept


def net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def by_name(groups: tuple[Group, ...]) -> dict[str, Group]:
    return {group.name: group for group in groups}


def slots(group: Group) -> dict[tuple[str, int], list[list[int]]]:
    return {(slot.parameter, slot.dim): slot.index.tolist() for slot in group.slots}


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_group_holds_producer_norm_and_consumer() -> None:
    model = net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
    structure = analyse(model, IMAGE)
    (group,) = structure.prunable
    own = [[c] for c in range(4)]
    assert (group.name, group.width) == ("0", 4)
    assert slots(group) == {
        ("0.weight", 0): own,
        ("0.bias", 0): own,
        ("1.weight", 0): own,
        ("1.bias", 0): own,
        ("1.running_mean", 0): own,
        ("1.running_var", 0): own,
        ("3.weight", 1): own,
    }
    reasons = {g.name: g.pinned for g in structure.groups if not g.prunable}
    assert "network output" in reasons["3"]


def test_flatten_repeats_a_channel_over_its_positions() -> None:
    model = net(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    (group,) = analyse(model, IMAGE).prunable
    columns = slots(group)["2.weight", 1]
    assert columns == [list(range(36 * c, 36 * c + 36)) for c in range(4)]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(F.relu(x + self.second(x)))


def test_a_residual_couples_both_branches() -> None:
    (group,) = analyse(Residual(), IMAGE).prunable
    assert set(slots(group)) == {
        ("first.weight", 0),
        ("first.bias", 0),
        ("second.weight", 0),
        ("second.weight", 1),
        ("second.bias", 0),
        ("head.weight", 1),
    }


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.head = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(x)], 1))


def test_concatenation_keeps_groups_apart() -> None:
    groups = by_name(analyse(Concat(), IMAGE).prunable)
    assert slots(groups["left"])["head.weight", 1] == [[0], [1], [2], [3]]
    assert slots(groups["right"])["head.weight", 1] == [[4], [5], [6], [7], [8], [9]]


def test_depthwise_follows_its_input() -> None:
    model = net(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    structure, _, small = prove(model, IMAGE)
    (group,) = structure.prunable
    assert group.width == 8
    assert small[1].groups == 4 and small[1].in_channels == 4 and small[1].weight.shape == (4, 1, 3, 3)


def test_grouped_convolution_loses_whole_groups() -> None:
    model = net(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 24, 3, groups=6), nn.Conv2d(24, 2, 1))
    structure, _, small = prove(model, IMAGE)
    assert {g.width for g in structure.prunable} == {6}
    assert small[1].groups == 3 and small[1].weight.shape == (12, 2, 3, 3)


def test_known_failure_a_convolution_with_one_output_channel_is_not_depthwise() -> None:
    model = net(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 1, 3), nn.Flatten(), nn.Linear(36, 2))
    _, _, small = prove(model, IMAGE)
    assert small[1].weight.shape == (1, 3, 3, 3)


def test_known_failure_conv1d_flatten_linear() -> None:
    model = net(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14, 4))
    _, _, small = prove(model, torch.randn(2, 2, 16))
    assert small[3].in_features == 4 * 14


class SlicesOtherDimensions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[:, :, 1:4, ::2])


def test_known_failure_slicing_on_other_dimensions() -> None:
    _, _, small = prove(SlicesOtherDimensions(), IMAGE)
    assert small.body.out_channels == 4


class Chunks(nn.Module):
    """Two halves that go to different consumers must stay equally wide."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 1)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.body(x).chunk(2, 1)
        return self.left(left) * self.right(right)


def test_equal_pieces_stay_equal() -> None:
    structure = analyse(Chunks(), IMAGE)
    (balance,) = structure.balances
    assert balance.pieces == ({0: 1}, {1: 1}) and balance.fixed == (0, 0)
    prove(Chunks(), IMAGE)


@pytest.mark.parametrize(
    ("layers", "inputs"),
    [
        ((nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 2, 1)), IMAGE),
        ((nn.Conv2d(3, 16, 3), nn.GroupNorm(1, 16), nn.Conv2d(16, 2, 1)), IMAGE),
        ((nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16, affine=True), nn.Conv2d(16, 2, 1)), IMAGE),
        ((nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3)), IMAGE),
        ((nn.Linear(8, 16), nn.RMSNorm(16), nn.SiLU(), nn.Linear(16, 3)), IMAGE),
        ((nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.Conv2d(4, 2, 1)), IMAGE),
        ((nn.Conv2d(3, 16, 3), nn.PixelUnshuffle(2), nn.Conv2d(64, 2, 1)), IMAGE),
        ((nn.Conv2d(3, 16, 3), nn.ChannelShuffle(4), nn.Conv2d(16, 2, 1)), IMAGE),
        ((nn.Conv2d(3, 16, 3), nn.GLU(1), nn.Conv2d(8, 2, 1)), IMAGE),
        ((nn.Conv2d(3, 16, 3), nn.PReLU(16), nn.Conv2d(16, 2, 1)), IMAGE),
        ((nn.ConvTranspose2d(3, 16, 3), nn.Conv2d(16, 2, 1)), IMAGE),
        ((nn.Conv2d(3, 16, 1), nn.ConvTranspose2d(16, 16, 2, groups=4), nn.Conv2d(16, 2, 1)), IMAGE),
        ((nn.Conv3d(1, 16, 3), nn.BatchNorm3d(16), nn.Conv3d(16, 2, 1)), torch.randn(2, 1, 5, 6, 7)),
        ((nn.Conv2d(3, 16, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)), IMAGE),
        ((nn.Embedding(10, 16), nn.Linear(16, 3)), torch.arange(6).reshape(2, 3)),
        ((nn.Conv2d(3, 16, 3), nn.Upsample(scale_factor=2), nn.MaxPool2d(3), nn.Conv2d(16, 2, 1)), IMAGE),
    ],
    ids=lambda v: type(v[1]).__name__ if isinstance(v, tuple) else "",
)
def test_every_mechanism_shrinks_to_what_silencing_gives(layers: tuple[nn.Module, ...], inputs: Tensor) -> None:
    model = net(*layers)
    structure, _, small = prove(model, inputs)
    assert structure.prunable and share_kept(small, model) < 0.8, [g.pinned for g in structure.groups]


class ReducesChannels(nn.Module):
    """A statistic over channels depends on how many there are: the reference must be restricted, or it is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.body(x))
        return self.head(x) * x.mean(1, keepdim=True) + x.amax(1, keepdim=True)


def test_statistics_over_channels_are_restricted() -> None:
    structure, plan, _ = prove(ReducesChannels(), IMAGE)
    assert structure.prunable and len(plan.sites) == 2


def test_the_reference_takes_another_batch_size() -> None:
    model = net(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3)).double().eval()
    _, plan, small = prove(model, torch.randn(2, 8))
    x = torch.randn(7, 8, dtype=torch.double)
    torch.testing.assert_close(small(x), plan.mask(model).eval()(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(self.embed(x))))


def test_tied_weights_stay_tied() -> None:
    _, _, small = prove(Tied(), torch.arange(6).reshape(2, 3))
    assert small.head.weight is small.embed.weight
    assert small.embed.embedding_dim == 4 == small.head.in_features


class LiteralView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)
        self.free = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.free(x)).mean((2, 3)).view(-1, 8))


def test_a_size_written_into_the_code_pins_and_says_so() -> None:
    structure = analyse(LiteralView(), IMAGE)
    assert [g.name for g in structure.prunable] == ["free"]
    assert any("view" in repair for repair in structure.repairs)
    assert any("view" in str(g.pinned) for g in structure.groups if g.name == "body")


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.fft.fft(self.first(x)).real))


def test_an_operator_without_a_rule_pins_and_is_named() -> None:
    structure = analyse(Unknown(), torch.randn(2, 8))
    assert [g.name for g in structure.prunable] == ["second"]
    assert any("fft" in site for site in structure.unknown)


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)
        self.unused = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return {"out": self.head(x), "aux": self.aux(x)} if self.training else {"out": self.head(x)}


def test_heads_that_only_training_reads_are_cut_too() -> None:
    model = Auxiliary()
    _, _, small = prove(model, IMAGE)
    small.train()(IMAGE.double())["aux"].sum().backward()
    assert small.aux.in_channels == 4
    assert small.unused.weight.shape == model.unused.weight.shape


def test_the_model_is_left_as_it_was() -> None:
    model = net(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 2, 1))
    model.train()
    model[1].eval()
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identity = [id(p) for p in model.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    analyse(model, IMAGE)
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in model] == [True, False, True, True]
    assert [id(p) for p in model.parameters()] == identity and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert len(model[0]._forward_hooks) == 1


def test_two_analyses_share_nothing() -> None:
    model = net(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))
    first, second = analyse(model, IMAGE), analyse(model, IMAGE)
    assert first.recording is not second.recording
    pairs = zip(first.prunable, second.prunable, strict=True)
    assert all(np.array_equal(a.slots[0].index, b.slots[0].index) for a, b in pairs)


@pytest.mark.parametrize(
    ("model", "inputs", "says"),
    [
        (nn.Conv2d(3, 4, 1), torch.randn(1, 5, 8, 8), "does not run on the example inputs"),
        (torch.jit.trace(nn.Conv2d(3, 4, 1), IMAGE), IMAGE, "TorchScript"),
        (torch.compile(nn.Conv2d(3, 4, 1)), IMAGE, "torch.compile"),
        (nn.LazyConv2d(4, 1), IMAGE, "lazy"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(model: nn.Module, inputs: Tensor, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        analyse(model, inputs)


class DividesByWidth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x / x.shape[-1] ** 0.5)


def test_a_number_computed_from_a_width_is_a_statistic_over_channels() -> None:
    structure, plan, _ = prove(DividesByWidth(), torch.randn(2, 8))
    assert structure.prunable and len(plan.sites) == 1


class Attention(nn.Module):
    """Sizes kept in attributes, as most transformers do it."""

    def __init__(self, dim: int = 24, heads: int = 6) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.embed, self.qkv = nn.Linear(5, dim), nn.Linear(dim, 3 * dim)
        self.proj, self.norm, self.head = nn.Linear(dim, dim), nn.LayerNorm(dim), nn.Linear(dim, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim))
        return self.head(self.norm(x))


def test_heads_and_embedding_shrink_together_when_the_code_divides_one_by_the_other() -> None:
    structure, _, small = prove(Attention(), torch.randn(2, 7, 5))
    assert {g.width for g in structure.prunable} == {24, 6} and structure.balances
    assert small.heads == 3 and small.embed.out_features == 12


@pytest.mark.parametrize("separate", [False, True])
def test_multihead_attention_loses_heads(separate: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(5, 16)
            self.attention = nn.MultiheadAttention(
                16, 4, batch_first=True, **({"kdim": 5, "vdim": 5} if separate else {})
            )
            self.head = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            query = self.embed(x)
            key = x if separate else query
            return self.head(query + self.attention(query, key, key, need_weights=False)[0])

    _, _, small = prove(Net(), torch.randn(3, 7, 5))
    assert small.attention.num_heads == 2 and small.attention.embed_dim == 8


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_lose_hidden_units(kind: type[nn.RNNBase]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body, self.head = (
                nn.Linear(5, 8),
                kind(8, 12, num_layers=1, batch_first=True),
                nn.Linear(12, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.embed(x))[0])

    structure, _, small = prove(Net(), torch.randn(3, 7, 5))
    assert len(structure.prunable) == 2
    assert small.body.hidden_size == 6 and small.body.input_size == 4


def test_a_group_prints_what_a_person_asks_of_it() -> None:
    groups = analyse(net(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)), IMAGE).groups
    assert str(groups[0]) == "0: 4 channels of 0.weight, 0.bias, 1.weight; prunable"
    assert "network output" in str(groups[-1]) and "array" not in repr(groups)
