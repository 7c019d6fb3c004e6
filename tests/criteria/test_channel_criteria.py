"""Criteria of channels: each equals a naive reference, follows permutations, and repeats no rival's mistake."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from reconvene.criteria import CHANNEL_CRITERIA, score, score_channels
from reconvene.criteria.channels.base import ChannelCriterion, ChannelScores
from reconvene.errors import CriterionError, UnknownNameError
from reconvene.structure import analyse
from support.channel_criteria import WITHOUT_SPIKES

X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
EXACT = {"rtol": 1e-10, "atol": 1e-14}


class Net(nn.Module):
    """A residual sum, a concatenation, a grouped and a depthwise convolution, and a classifier; gates where read.

    Groups: ``stem`` (stem, block2 and all readers of their sum), ``block1``, ``side`` (concatenated with ``stem``),
    ``grouped`` and ``depthwise``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.block1, self.norm1 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.block2, self.norm2 = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.side = nn.Conv2d(3, 4, 1)
        self.joint, self.norm3 = nn.Conv2d(10, 8, 1), nn.BatchNorm2d(8)
        self.grouped, self.norm4 = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8)
        self.expand, self.depthwise = nn.Conv2d(8, 7, 1), nn.Conv2d(7, 7, 3, padding=1, groups=7)
        self.head = nn.Linear(7, 3)
        self.gates: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        def read(name: str, value: Tensor) -> Tensor:
            return value * self.gates[name].view(1, -1, *[1] * (value.ndim - 2)) if name in self.gates else value

        stem = self.norm0(self.stem(x)).relu()
        inner = self.norm1(self.block1(read("stem", stem))).relu()
        stem = (stem + self.norm2(self.block2(read("block1", inner)))).relu()
        both = torch.cat([read("stem", stem), read("side", self.side(x))], 1)
        joint = self.norm3(self.joint(both)).relu()
        grouped = self.norm4(self.grouped(joint)).relu()
        wide = self.depthwise(self.expand(read("grouped", grouped))).relu()
        return self.head(read("expand", wide.mean((2, 3))))


def trained(seed: int = 0) -> Net:
    """A network whose norms look trained."""
    torch.manual_seed(seed)
    net = Net().double()
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.data.add_(0.3 * torch.randn_like(tensor))
            if name.endswith("running_var"):
                tensor.data.abs_().add_(0.3)
    return net.eval()


def batches(count: int = 3, size: int = 4, seed: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator),
            torch.randint(3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def scores(net: nn.Module, criterion: str, x=X, **options) -> dict[str, np.ndarray]:
    structure = analyse(net, x)
    saliency = score_channels(net, structure, x, criterion, **options)
    return {group.name: s for group, s in zip(structure.prunable, saliency.scores, strict=True)}


def positions(net: nn.Module, x=X) -> dict[str, list[dict[tuple[str, int], list[int]]]]:
    """For every group and channel: the positions it has in every dimension of every parameter."""
    return {
        group.name: [
            {(slot.parameter, slot.dim): slot.index[c].tolist() for slot in group.slots} for c in range(group.width)
        ]
        for group in analyse(net, x).prunable
    }


def is_shift(name: str) -> bool:
    return name.endswith("bias")


def touched(net: nn.Module, channel: dict[tuple[str, int], list[int]], wanted) -> dict[str, Tensor]:
    """A mask of the elements that a channel touches, by parameter, where ``wanted(name, dim)``."""
    masks = {}
    parameters = dict(net.named_parameters())
    for (name, dim), at in channel.items():
        if name in parameters and wanted(name, dim):
            mask = masks.setdefault(name, torch.zeros_like(parameters[name], dtype=torch.bool))
            for position in at:
                mask.select(dim, position).fill_(True)
    return masks


def naive_sums(net: nn.Module, wanted, value) -> dict[str, np.ndarray]:
    parameters = dict(net.named_parameters())
    return {
        name: np.array(
            [
                sum(float(value(n, parameters[n]).detach()[m].sum()) for n, m in touched(net, c, wanted).items())
                for c in channels
            ]
        )
        for name, channels in positions(net).items()
    }


def naive_gradients(net: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    named = dict(net.named_parameters())
    return dict(
        zip(named, torch.autograd.grad(cross_entropy(net(batch[0]), batch[1]), list(named.values())), strict=True)
    )


def rows(name: str, dim: int) -> bool:
    return dim == 0 and not is_shift(name) and not name.startswith("norm")


def assert_equal(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], **EXACT, err_msg=name)


def test_the_groups_are_those_that_the_references_know():
    assert {name: len(channels) for name, channels in positions(trained()).items()} == {
        "stem": 6,
        "block1": 5,
        "side": 4,
        "joint": 4,
        "grouped": 4,
        "expand": 7,
    }


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_norms_of_rows(criterion, power):
    net = trained()
    assert_equal(scores(net, criterion), naive_sums(net, rows, lambda _, w: w.abs() ** power))


def test_group_norm_counts_rows_columns_and_scales_once():
    net = trained()
    want = naive_sums(net, lambda name, _: not is_shift(name), lambda _, w: w**2)
    assert_equal(scores(net, "group_l2"), want)


def test_lamp_shares_what_is_at_least_as_large():
    net = trained()
    energy = naive_sums(net, lambda name, _: not is_shift(name), lambda _, w: w**2)
    want = {name: np.array([e / sum(o for o in es if o >= e) for e in es]) for name, es in energy.items()}
    assert_equal(scores(net, "lamp"), want)


def test_slimming_reads_scales_and_says_which_groups_have_none():
    with pytest.raises(CriterionError, match=r"2 groups pass through no norm: side, expand.*keep=\['side'"):
        scores(trained(), "slimming")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)).double()
    nn.init.normal_(net[1].weight)
    np.testing.assert_allclose(scores(net, "slimming")["0"], net[1].weight.detach().abs().numpy(), **EXACT)


def test_fpgm_is_the_sum_of_distances_between_filters():
    net = trained()
    parameters = {name: parameter.detach() for name, parameter in net.named_parameters()}
    want = {}
    for group, channels in positions(net).items():
        total = np.zeros(len(channels))
        for c, channel in enumerate(channels):
            for (name, dim), at in channel.items():
                if rows(name, dim) and parameters[name].ndim >= 2:
                    total[c] += sum(
                        float((parameters[name][p] - other).norm()) for p in at for other in parameters[name]
                    )
        want[group] = total
    assert_equal(scores(net, "fpgm"), want)


def gate_derivatives(net: Net, batch: tuple[Tensor, Tensor]) -> dict[str, np.ndarray]:
    net.gates = {
        name: torch.ones(len(channels), dtype=torch.float64, requires_grad=True)
        for name, channels in positions(net).items()
        if name in ("stem", "block1", "side", "expand")
    }
    try:
        loss = cross_entropy(net(batch[0]), batch[1])
        gradients = torch.autograd.grad(loss, list(net.gates.values()))
        return {name: gradient.numpy() for name, gradient in zip(net.gates, gradients, strict=True)}
    finally:
        net.gates = {}


def test_taylor_is_the_mean_square_of_the_derivative_by_a_gate():
    net, data = trained(), batches()
    derivatives = [gate_derivatives(net, batch) for batch in data]
    got = scores(net, "taylor", data=data)
    for name in derivatives[0]:
        np.testing.assert_allclose(got[name], np.mean([d[name] ** 2 for d in derivatives], axis=0), **EXACT)


def test_taylor_equals_the_naive_sum_over_the_columns_that_read():
    net, data = trained(), batches()
    each = []
    for batch in data:
        gradient = naive_gradients(net, batch)
        columns = naive_sums(net, lambda name, dim: dim == 1, lambda name, w, g=gradient: w * g[name])
        each.append({name: value**2 for name, value in columns.items()})
    assert_equal(scores(net, "taylor", data=data), {n: np.mean([e[n] for e in each], axis=0) for n in each[0]})


def test_taylor_passes_a_finite_difference_check_on_gates():
    net, batch, step = trained(), batches(1)[0], 1e-5
    got = scores(net, "taylor", data=[batch])
    for name in ("stem", "block1", "side", "expand"):
        for c in range(len(got[name])):
            losses = []
            for sign in (1, -1):
                gate = torch.ones(len(got[name]), dtype=torch.float64)
                gate[c] += sign * step
                net.gates = {name: gate}
                losses.append(float(cross_entropy(net(batch[0]), batch[1]).detach()))
            net.gates = {}
            assert got[name][c] == pytest.approx(((losses[0] - losses[1]) / (2 * step)) ** 2, rel=1e-5, abs=1e-12)


def test_obd_squares_gradients_of_single_examples():
    net, data = trained(), batches(2, 3)
    squares = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for inputs, target in data:
        for n in range(len(inputs)):
            gradient = naive_gradients(net, (inputs[n : n + 1], target[n : n + 1]))
            for name, square in squares.items():
                square += gradient[name] ** 2 / 6
    want = naive_sums(net, lambda *_: True, lambda name, w: 0.5 * w**2 * squares[name])
    assert_equal(scores(net, "obd", data=data), want)


def feature_maps(net: Net, inputs: Tensor) -> dict[str, Tensor]:
    """What each group's channels hold last with two spatial dimensions, ``[N, C, H, W]`` with the channels of C."""
    with torch.no_grad():
        stem = net.norm0(net.stem(inputs)).relu()
        inner = net.norm1(net.block1(stem)).relu()
        stem = (stem + net.norm2(net.block2(inner))).relu()
        both = torch.cat([stem, net.side(inputs)], 1)
        joint = net.norm3(net.joint(both)).relu()
        grouped = net.norm4(net.grouped(joint)).relu()
        wide = net.depthwise(net.expand(grouped)).relu()
    return {"stem": both, "block1": inner, "side": both, "joint": joint, "grouped": grouped, "expand": wide}


def map_positions(net: Net) -> dict[str, list[list[int]]]:
    at = {name: [c[(f"{name}.weight", 0)] for c in channels] for name, channels in positions(net).items()}
    return at | {"side": [[p + 6 for p in channel] for channel in at["side"]]}


def test_hrank_is_the_mean_rank_of_feature_maps():
    net, data, at = trained(), batches(2, 3), map_positions(trained())
    for p in net.parameters():
        p.data.mul_(torch.rand_like(p) > 0.6)  # so that ranks differ
    want = {name: np.zeros(len(channels)) for name, channels in at.items()}
    for inputs, _ in data:
        for name, maps in feature_maps(net, inputs).items():
            for c, channel in enumerate(at[name]):
                ranks = [int(torch.linalg.matrix_rank(maps[n, p])) for n in range(3) for p in channel]
                want[name][c] += np.mean(ranks) / 2
    assert len({float(s) for scores_ in want.values() for s in scores_}) > 6
    assert_equal(scores(net, "hrank", data=data), want)


def test_chip_is_the_nuclear_norm_that_a_channel_adds():
    net, data, at = trained(), batches(2, 2), map_positions(trained())
    want = {name: np.zeros(len(channels)) for name, channels in at.items()}
    for inputs, _ in data:
        for name, maps in feature_maps(net, inputs).items():
            for n in range(2):
                matrix = maps[n].flatten(1)
                for c, channel in enumerate(at[name]):
                    others = [p for p in range(len(matrix)) if p not in channel]
                    norms = [torch.linalg.matrix_norm(m, "nuc") for m in (matrix, matrix[others])]
                    want[name][c] += float(norms[0] - norms[1]) / 4
    assert_equal(scores(net, "chip", data=[inputs for inputs, _ in data]), want)


@pytest.mark.parametrize("criterion", WITHOUT_SPIKES)
def test_scores_follow_a_permutation_of_channels(criterion):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    ).double()  # fmt: skip
    data, order = batches(), torch.randperm(8)
    nn.init.uniform_(net[1].weight)
    before = scores(net, criterion, data=data)
    with torch.no_grad():
        for tensor in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
            tensor.copy_(tensor[order].clone())
        net[3].weight.copy_(net[3].weight[:, order].clone())
    after = scores(net, criterion, data=data)
    np.testing.assert_allclose(after["0"], before["0"][order.numpy()], rtol=1e-9)
    np.testing.assert_allclose(after["3"], before["3"], rtol=1e-9)


def chain() -> nn.Sequential:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).double()  # fmt: skip
    return net.eval()


@pytest.mark.parametrize("criterion", ["taylor", "group_l2", "slimming"])
def test_norms_count(criterion):
    net = chain()
    before = scores(net, criterion, data=batches())["0"]
    with torch.no_grad():
        net[1].weight[2], net[1].bias[2] = 0.0, 0.0
    after = scores(net, criterion, data=batches())["0"]
    assert after[2] < before[2] and (criterion == "group_l2" or after[2] == 0)


def test_distances_are_between_weights_and_not_between_their_squares():
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    x = torch.ones(1, 2, dtype=torch.float64)
    root = 2**0.5
    np.testing.assert_allclose(scores(net, "fpgm", x)["0"], [2 + root, 2 + root, 2 * root], **EXACT)


def test_every_example_counts_for_the_hessian():
    net, (inputs, target) = chain(), batches(1, 4)[0]
    together = scores(net, "obd", data=[(inputs, target)])
    single = [scores(net, "obd", data=[(inputs[n : n + 1], target[n : n + 1])]) for n in range(4)]
    for name in together:
        np.testing.assert_allclose(together[name], np.mean([s[name] for s in single], axis=0), **EXACT)


@pytest.mark.parametrize("criterion", WITHOUT_SPIKES)
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_equal_channels_have_equal_and_finite_scores(criterion, value):
    from reconvene.evaluator import evaluate_groups

    net = chain()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.fill_(value)
    structure = analyse(net, X)
    saliency = score_channels(net, structure, X, criterion, data=batches())
    assert np.isfinite(saliency.scores[0]).all() and np.ptp(saliency.scores[0]) <= 1e-9 * saliency.scores[0].max()
    curve = evaluate_groups(structure, saliency, evaluator="removed_loss").curves[0]
    assert np.isfinite(curve.loss[1:]).all() and (np.diff(curve.loss[1:]) <= 0).all()


def test_of_two_equal_filters_one_leaves():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 12, bias=False), nn.ReLU(), nn.Linear(12, 2)).double()
    pairs = [(0, 7), (3, 4), (9, 11)]
    with torch.no_grad():
        nn.init.orthogonal_(net[0].weight)
        for one, other in pairs:
            net[0].weight[other] = net[0].weight[one]
    x = torch.ones(1, 16, dtype=torch.float64)
    leaving = score_channels(net, analyse(net, x), x, "fpgm").leaving[0][:3].tolist()
    assert all(len({one, other} & set(leaving)) == 1 for one, other in pairs)


class Heads(nn.Module):
    """Two heads, inputs by name, outputs in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 1)

    def forward(self, pixels: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        inner = self.body(pixels if scale is None else pixels * scale).relu()
        return {"kind": self.first(inner), "size": self.second(inner)}


@pytest.mark.parametrize("criterion", ["taylor", "obd", "hrank", "chip"])
def test_batches_may_be_mappings_or_hold_several_targets(criterion):
    torch.manual_seed(0)
    net = Heads().double()
    pixels, kind = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    size = torch.randn(4, 1, dtype=torch.float64)

    def by_name(output, batch):
        return cross_entropy(output["kind"], batch["kind"]) + (output["size"] - batch["size"]).square().mean()

    def in_order(output, target):
        return by_name(output, {"kind": target[0], "size": target[1]})

    named = scores(net, criterion, pixels, data=[{"pixels": pixels, "kind": kind, "size": size}], loss=by_name)
    tupled = scores(net, criterion, pixels, data=[(pixels, kind, size)], loss=in_order)
    assert_equal(named, tupled)
    assert named["body"].max() > 0
    with pytest.raises(CriterionError, match="the model takes pixels, scale by name"):
        scores(net, criterion, pixels, data=[{"image": pixels}], loss=by_name)


def test_what_is_missing_is_named():
    with pytest.raises(CriterionError, match="criterion 'taylor' needs data, and got none"):
        scores(chain(), "taylor")
    with pytest.raises(UnknownNameError, match=", ".join(sorted(CHANNEL_CRITERIA))):
        scores(chain(), "tailor")
    with pytest.raises(CriterionError, match="scores channels and not weights"):
        score(chain(), X, "taylor", data=batches())
    with pytest.raises(CriterionError, match="not finite"):
        scores(chain(), "taylor", data=batches(), loss=lambda output, _: output.sum() * torch.inf)


@pytest.mark.parametrize("needs", [None, "data", "loss"])
def test_a_criterion_gets_what_it_declares_to_read(needs, monkeypatch):
    subjects = []

    def ones(subject):
        subjects.append(subject)
        return ChannelScores([np.ones(group.width) for group in subject.structure.prunable])

    monkeypatch.setitem(CHANNEL_CRITERIA, "ones", ChannelCriterion("ones", ones, needs=needs))
    data, loss = batches(), mse_loss
    scores(chain(), "ones", data=data, loss=loss)
    assert (subjects[0].data is data, subjects[0].loss is loss) == (needs is not None, needs == "loss")
    if needs is not None:
        with pytest.raises(CriterionError, match="criterion 'ones' needs data, and got none"):
            scores(chain(), "ones")


@pytest.mark.parametrize("criterion", WITHOUT_SPIKES)
def test_the_model_and_the_random_state_are_left_alone(criterion):
    net = chain().train()
    before, state = {n: t.clone() for n, t in net.state_dict().items()}, torch.get_rng_state()
    structure = analyse(net, X)
    score_channels(net, structure, X, criterion, data=batches())
    assert net.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_what_attention_compares_has_its_gate_where_it_is_computed():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(4, 6) for _ in range(3))
            self.out = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            mixed = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1) @ self.value(x)
            return self.out(mixed.mean(1))

    torch.manual_seed(0)
    net = Attention().double()
    x, target = torch.randn(2, 5, 4, dtype=torch.float64), torch.tensor([0, 2])
    gate = torch.ones(6, dtype=torch.float64, requires_grad=True)
    query = (net.query(x) * gate) @ net.key(x).transpose(1, 2)
    loss = cross_entropy(net.out((query.softmax(-1) @ net.value(x)).mean(1)), target)
    want = torch.autograd.grad(loss, gate)[0].square().numpy()
    np.testing.assert_allclose(scores(net, "taylor", x, data=[(x, target)])["query"], want, rtol=1e-9)


def test_losses_that_add_up_are_the_curve():
    from reconvene.evaluator import evaluate_groups

    net = chain()
    structure = analyse(net, X)
    saliency = score_channels(net, structure, X, "taylor", data=batches())
    curves = evaluate_groups(structure, saliency, evaluator="removed_loss")
    assert curves.adds_up and curves.criterion == "taylor"
    # The i-th channel that leaves is one of n - i: it counts n / (n - i) times.
    raised = [[v * len(own) / (len(own) - i) for i, v in enumerate(sorted(own))] for own in saliency.scores]
    total = sum(map(sum, raised))
    for curve, values in zip(curves.curves, raised, strict=True):
        for k in range(1, curve.width + 1):
            assert curve.loss[k] ** 2 == pytest.approx(sum(values[: curve.width - k]) / total)
    with pytest.raises(CriterionError, match="evaluator='removed_loss'"):
        evaluate_groups(structure, saliency, evaluator="density")


def test_equal_scores_without_a_unit_lose_what_fan_in_says():
    from reconvene.criteria import ChannelSaliency
    from reconvene.evaluator import evaluate_groups

    structure = analyse(trained(), X)
    even = ChannelSaliency("even", [np.full(group.width, 2.5) for group in structure.prunable])
    best_first = ChannelSaliency("steep", [10.0 ** -np.arange(group.width) for group in structure.prunable])
    base = evaluate_groups(structure)
    for curve, same, steep in zip(
        base.curves,
        evaluate_groups(structure, even, evaluator="removed_loss").curves,
        evaluate_groups(structure, best_first, evaluator="removed_loss").curves,
        strict=True,
    ):
        np.testing.assert_allclose(same.loss[1:], curve.loss[1:], atol=1e-9)
        assert (steep.loss[1:-1] < curve.loss[1:-1]).all()


def test_fpgm_sees_that_channels_of_several_filters_are_equal() -> None:
    """Heads and flattened groups: equal channels have equal filters one by one, and distances among their own."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 12, 3, groups=6), nn.Flatten(), nn.Linear(48, 2))
    with torch.no_grad():
        for layer, each in ((net[0], 1), (net[2], 2)):
            layer.weight[4 * each : 5 * each] = layer.weight[each : 2 * each]
            layer.bias[4 * each : 5 * each] = layer.bias[each : 2 * each]
    x = torch.randn(1, 3, 6, 6)
    structure = analyse(net, x)
    leaving = score_channels(net, structure, x, "fpgm").leaving
    (first,) = (order[0] for order, group in zip(leaving, structure.prunable, strict=True) if group.width == 6)
    assert first in (1, 4), "one of the twins leaves first"
