"""Dead and constant channels leave, all of them and nothing else, and outputs stay what they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene import simplify
from reconvene.errors import CriterionError
from reconvene.models import MODELS
from reconvene.planning.simplify import silent_channels
from reconvene.structure import analyse
from reconvene.surgery.ranges import from_text
from support import trained_net
from support.trained_net import Net, batches, trained

TRAINED_X = trained_net.X
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def trained_look(net: nn.Module, seed: int = 3) -> nn.Module:
    """Norms as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            noise = 0.2 * torch.randn(tensor.shape, generator=generator)
            tensor.data.add_(noise.abs() if name.endswith("var") else noise)
    return net.eval()


def kill(net: nn.Module, norm: str, channels: list[int]) -> None:
    with torch.no_grad():
        net.get_submodule(norm).weight[channels] = 0.0
        net.get_submodule(norm).bias[channels] = 0.0


def widths(net: nn.Module) -> dict[str, int]:
    return {row.name: row.width for row in net.reconvene_plan.rows if row.width < row.dense}


def assert_same(small: nn.Module, net: nn.Module, x: Tensor = X) -> None:
    small, net = copy.deepcopy(small).eval().double(), copy.deepcopy(net).eval().double()
    test = torch.randn(4, *x.shape[1:], generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    want = net(test)
    assert float((small(test) - want).detach().abs().max()) <= 1e-6 * float(want.detach().abs().max())


def test_planted_dead_channels_leave_and_nothing_else():
    torch.manual_seed(0)
    net = trained_look(MODELS["resnet20"](num_classes=10))
    norms = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    inner = norms[1]  # inside of the first block
    kill(net, inner, [2, 5, 11])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    small = simplify(net, X)
    assert list(widths(small).values()) == [13]
    assert_same(small, net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())


def test_the_stream_of_residual_blocks_loses_a_channel_that_all_of_them_lack():
    torch.manual_seed(0)
    net = trained_look(MODELS["resnet20"](num_classes=10))
    norms = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    stage = [name for name in norms if net.get_submodule(name).num_features == 16]
    for name in [stage[0], *stage[2::2]]:
        kill(net, name, [4])
    small = simplify(net, X)
    assert list(widths(small).values()) == [15]
    assert_same(small, net)
    kill(net, stage[1], [4])
    with torch.no_grad():
        net.get_submodule(stage[2]).bias[4] = 0.3  # one block gives the stream something again
    (name,) = widths(small)
    assert list(widths(simplify(net, X)).values()) == [15] and name not in widths(simplify(net, X))


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Sigmoid(), nn.Linear(5, 3))


def test_constants_move_into_biases():
    net, x = linear(), torch.randn(2, 6)
    with torch.no_grad():
        net[0].weight[[1, 6]] = 0.0  # relu of the bias is what is left
        net[0].bias[[1, 6]] = torch.tensor([0.7, -0.4])
        net[2].weight[3] = 0.0  # behind a sigmoid it is never zero
    small = simplify(net, x)
    assert widths(small) == {"0": 6, "2": 4}
    assert_same(small, net, x)


def test_channels_without_a_reader_leave():
    net, x = linear(), torch.randn(2, 6)
    with torch.no_grad():
        net[2].weight[:, [0, 4, 7]] = 0.0
    small = simplify(net, x)
    assert widths(small) == {"0": 5}
    assert_same(small, net, x)


def test_a_channel_that_is_silent_on_the_data_only_stays():
    net, x = linear(), torch.randn(2, 6)
    with torch.no_grad():
        net[0].bias[2] = -3.0
        net[0].weight[2] *= 0.5
    assert float(net[:2](x)[:, 2].detach().abs().max()) == 0.0
    assert widths(simplify(net, x)) == {}


@pytest.mark.parametrize(("padding", "bias", "leaves"), [(0, True, True), (1, True, False), (0, False, False)])
def test_a_constant_stays_where_no_bias_can_take_it(padding, bias, leaves):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=padding, bias=bias))
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = 0.0, 0.5
    small = simplify(net, X)
    assert widths(small) == ({"0": 5} if leaves else {})
    assert_same(small, net)


def test_one_group_in_the_way_keeps_no_other_from_leaving():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = 0.0, 0.5  # read at a border
        net[2].weight[1], net[2].bias[1] = 0.0, -0.5
    assert widths(simplify(net, X)) == {"2": 3}


def test_grouped_convolutions_fold_group_by_group():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    with torch.no_grad():
        net[0].weight[[1, 5]] = 0.0  # a pair: both groups read their second input
        net[0].bias[[1, 5]] = torch.tensor([0.5, 0.25])
    small = simplify(net, X)
    assert widths(small) == {"0": 3}
    assert_same(small, net)


def planted() -> tuple[nn.Module, list[int]]:
    """A trained network with dead channels whose weights are the largest of their layer."""
    net, dead = trained(Net()), [3, 8, 17, 20]
    with torch.no_grad():
        net.layer1[0].weight[dead] *= 10
        net.layer1[1].weight[dead], net.layer1[1].bias[dead] = 0.0, 0.0
    return net, dead


def test_simplify_takes_all_that_is_dead_in_a_trained_network_and_nothing_else():
    net, dead = planted()
    small = simplify(net, TRAINED_X)
    assert widths(small) == {"layer1.0": 20}
    assert not set(small.reconvene_plan.keep["layer1.0"].tolist()) & set(dead)
    assert_same(small, net, TRAINED_X)


@pytest.mark.parametrize("criterion", ["l2", "group_l2", "fpgm", "taylor"])
def test_dead_channels_leave_first_whatever_the_criterion_says(criterion):
    net, dead = planted()
    data = batches(1) if criterion == "taylor" else None
    plan = rc.plan(
        net, TRAINED_X, rc.Budget(macs=0.99), criterion, data, trained=True, widths={"layer1.0": 20}, round_to=1
    )
    assert sorted(set(range(24)) - set(plan.keep["layer1.0"].tolist())) == dead
    assert all(row.width == row.dense for row in plan.rows if row.name != "layer1.0")
    assert_same(plan.apply(net), net, TRAINED_X)


def test_of_each_duplicated_pair_in_a_trained_network_one_leaves():
    net, pairs = trained(Net()), [(0, 9), (5, 14), (11, 21)]
    with torch.no_grad():
        for one, other in pairs:
            net.layer1[0].weight[other], net.layer1[0].bias[other] = net.layer1[0].weight[one], net.layer1[0].bias[one]
    wanted = {"layer1.0": 21}
    plan = rc.plan(net, TRAINED_X, rc.Budget(macs=0.99), "fpgm", trained=True, widths=wanted, round_to=1)
    gone = set(range(24)) - set(plan.keep["layer1.0"].tolist())
    assert all(len({one, other} & gone) == 1 for one, other in pairs)


def test_mode_is_kept_and_nothing_dead_gives_a_copy():
    net = trained_look(MODELS["resnet20"](num_classes=10)).train()
    small = simplify(net, X)
    assert small is not net and small.training and widths(small) == {}
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), net.state_dict().values(), strict=True))


def test_weights_must_be_finite():
    net = linear()
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(CriterionError, match="not finite"):
        simplify(net, torch.randn(2, 6))


class ReadTwice(nn.Module):
    """Channels that a layer with zero weights reads, and something that has no ``weight``."""

    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.first, self.zero, self.second = nn.Linear(8, 16), nn.Linear(16, 4), second
        nn.init.zeros_(self.zero.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.first(x).relu()
        out = self.second(h)
        return self.zero(input=h), out[0] if isinstance(out, tuple) else out


class OwnProduct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.projection


class SumOfChannels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


@pytest.mark.parametrize(
    "second", [nn.GRU(16, 6, batch_first=True), nn.LSTM(16, 6, batch_first=True), OwnProduct(), SumOfChannels()]
)
def test_channels_that_anything_reads_are_not_silent(second: nn.Module) -> None:
    net, x = ReadTwice(second).eval(), torch.randn(2, 5, 8)
    structure = analyse(net, x)
    silent = silent_channels(net, structure, x)
    assert not any(channels.any() for channels in silent)
    small = simplify(net, x)
    assert all(torch.equal(a, b) for a, b in zip(small(x), net(x), strict=True))
    assert small.first.out_features == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("net", "shape"), [
    (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (6,)),
    (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)), (3, 8, 8)),
    (nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 2, 3)), (3, 8)),
])  # fmt: skip
def test_inputs_without_a_batch_and_of_any_precision(
    net: nn.Module, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    net = copy.deepcopy(net).to(dtype).eval()
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = 0.0, 0.0
    x = torch.randn(shape, dtype=dtype)
    assert simplify(net, x)[0].weight.shape[0] == 7
    plan = rc.plan(net, x, rc.Budget(params=0.95), trained=True)
    assert 2 not in from_text(plan.slices["0.weight"][0])


class NamesItsPrecision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.float()).relu())


def test_models_that_name_a_precision_themselves_are_compared_in_it():
    net, x = NamesItsPrecision().eval(), torch.randn(4, 8)
    with torch.no_grad():
        net.first.weight[3], net.first.bias[3] = 0.0, 0.0
    small = simplify(net, x)
    assert small.first.out_features == 15
    torch.testing.assert_close(small(x), net(x))
    assert 3 not in from_text(rc.plan(net, x, rc.Budget(params=0.95), trained=True).slices["first.weight"][0])
