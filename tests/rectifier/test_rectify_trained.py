"""Trained networks after the cut: statistics are taken again, and what is left is fitted to what the dense one gave."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import reconvene as rc
from reconvene.criteria.few_examples import few_of, gathered
from reconvene.errors import DataError, ModelError
from reconvene.rectifier import least_squares, recalibrate
from reconvene.rectifier.least_squares import PENALTIES, fit_weights
from reconvene.structure import analyse
from reconvene.structure.replay import replay
from reconvene.surgery import make_plan
from reconvene.utils.progress import listening


def cut(net: nn.Module, x: Tensor, keep: dict[str, list[int]]):
    """A plan that keeps these channels of these groups, and all of the others."""
    structure = analyse(net, x)
    kept = [np.array(keep.get(group.name, range(group.width)), dtype=np.int64) for group in structure.prunable]
    assert keep.keys() <= {group.name for group in structure.prunable}
    return make_plan(net, structure, kept, [], scalars=replay(net, x, structure, kept).scalars)


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def trained_look(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(9)
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            noise = 0.2 * torch.randn(tensor.shape, generator=generator)
            tensor.data.add_(noise.abs() if name.endswith("var") else noise)
    return net.eval()


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return trained_look(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 5, 3, padding="same", dilation=2, padding_mode="reflect"), nn.ReLU(),
            nn.Flatten(), nn.Linear(5 * 16, 4),
        )
    )  # fmt: skip


def copies(net: nn.Module, producer: str, norm: str | None, pairs: dict[int, tuple[int, float]]) -> None:
    """Make channels multiples of others: behind a ReLU, too, what one holds then says what the other holds."""
    with torch.no_grad():
        modules = dict(net.named_modules())
        for copied, (source, factor) in pairs.items():
            if norm is None:
                modules[producer].weight[copied] = factor * modules[producer].weight[source]
                modules[producer].bias[copied] = factor * modules[producer].bias[source]
                continue
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensor = getattr(modules[norm], name)
                tensor[copied] = tensor[source] * (factor if name in ("weight", "bias") else 1)
            modules[producer].weight[copied] = modules[producer].weight[source]
            if modules[producer].bias is not None:
                modules[producer].bias[copied] = modules[producer].bias[source]


def test_statistics_are_the_plain_mean_over_batches():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.01), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
    net[2].eval()
    modes = [module.training for module in net.modules()]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    data = [images(16, 3, 8, 8, seed=s) for s in range(4)]
    seen: list[tuple[int, int]] = []
    with listening(lambda done, total, _: seen.append((done, total))):
        names = recalibrate(net, data)
    with torch.no_grad():
        outputs = [net[0](batch) for batch in data]
    assert names == ["1"] and seen[-1] == (64, 64)
    want_mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    want_var = torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0)
    torch.testing.assert_close(net[1].running_mean, want_mean)
    torch.testing.assert_close(net[1].running_var, want_var)
    assert net[1].momentum == 0.01 and [module.training for module in net.modules()] == modes
    unchanged = {n for n, t in net.state_dict().items() if torch.equal(t, before[n])}
    assert set(before) - unchanged == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_recalibration_reads_no_more_than_it_needs():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    read = []

    def batches():
        for number in range(100):
            read.append(number)
            yield images(10, 3, seed=number), torch.zeros(10)

    recalibrate(net, batches(), examples=35)
    assert net[1].num_batches_tracked == 4
    assert recalibrate(nn.Linear(3, 4), None) == []  # nothing to take again


def test_what_left_is_read_from_what_stays():
    net, x = convolutions(), images(2, 3, 8, 8)
    copies(net, "0", "1", {5: (0, 2.0), 6: (1, 0.5), 7: (2, 1.5)})
    copies(net, "3", "4", {5: (3, 3.0)})
    copies(net, "6", None, {4: (1, 0.7)})
    data = [(images(64, 3, 8, 8, seed=s), None) for s in range(6)]
    recalibrate(net, data)  # so that statistics are those of the data, before and after
    before = copy.deepcopy(net.state_dict())
    plan = cut(net, x, {"0": [0, 1, 2, 3, 4], "3": [0, 1, 2, 3, 4], "6": [0, 1, 2, 3]})
    test = images(32, 3, 8, 8, seed=99)
    small = plan.apply(net).eval()
    want = net(test)
    assert not torch.allclose(small(test), want, atol=0.1)
    layers: list[str] = []
    report = rc.rectify(
        small, plan, x, "reconstruct", model=net, data=data, progress=lambda done, total, name: layers.append(name)
    )
    torch.testing.assert_close(small(test), want, atol=2e-3, rtol=2e-3)
    assert [name for name in layers if name in net._modules][:3] == ["3", "6", "9"]
    actions = {row.layer: row.action for row in report.rows}
    assert all(actions[name].startswith("reconstructed") for name in ("3", "6", "9"))
    assert actions["0"] == "kept" and actions["1"] == actions["4"] == "norm recalibrated"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Decoder(nn.Module):
    """A transposed and a grouped convolution, one dimension, no norms."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.up = nn.Conv1d(3, 6, 3, padding=1), nn.ConvTranspose1d(6, 4, 2, 2)
        self.grouped, self.head = nn.Conv1d(4, 4, 3, padding=1, groups=2), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.up(self.first(x).relu()).relu()).relu()
        return self.head(x.transpose(1, 2))


def test_transposed_and_grouped_convolutions_are_fitted():
    net, x = Decoder(), images(2, 3, 10)
    copies(net, "first", None, {4: (0, 2.0), 5: (1, 0.5)})
    plan = cut(net, x, {"first": [0, 1, 2, 3]})
    small = plan.apply(net)
    rc.rectify(small, plan, x, "reconstruct", model=net, data=[images(200, 3, 10, seed=1)])
    test = images(8, 3, 10, seed=2)
    torch.testing.assert_close(small(test), net(test), atol=1e-4, rtol=1e-3)


def test_the_mean_of_what_left_goes_into_the_bias():
    net = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3))
    with torch.no_grad():
        net[0].weight[4:], net[0].bias[4:] = 0.0, torch.tensor([0.3, -2.0])
    x = images(2, 4)
    plan = cut(net, x, {"0": [0, 1, 2, 3]})
    small = plan.apply(net)
    rc.rectify(small, plan, x, "reconstruct", model=net, data=[images(100, 4, seed=1)])
    torch.testing.assert_close(small(x), net(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(small[2].weight, net[2].weight[:, :4])  # nothing else was to be mended


def test_weights_stay_where_none_predict_better():
    generator = torch.Generator().manual_seed(0)
    inputs, weight = torch.randn(40, 30, generator=generator), torch.randn(30, 2, generator=generator)
    noise = torch.randn(40, 2, generator=generator)  # what nothing explains
    fitted, share = fit_weights(inputs.double(), (inputs @ weight + noise).double(), weight.double(), centred=True)
    naive = torch.linalg.lstsq(inputs.double(), (inputs @ weight + noise).double()).solution
    assert (fitted - weight).norm() < 0.2 * (naive - weight).norm() and share < 0.1


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("rows", [1301, 501])
def test_a_fit_is_ridge_regression_of_all_rows_by_the_best_penalty_between_halves(rows: int, centred: bool) -> None:
    """More inputs than a block of second moments holds, or than rows; halves of different means, of unequal length."""
    half = rows // 2
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 600, generator=generator, dtype=torch.float64)
    inputs[half:] += 0.5
    weight, change = (torch.randn(600, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    outputs = inputs @ (weight + change) + torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    fitted, share = fit_weights(inputs, outputs, weight, centred=centred)

    def centre(values: Tensor) -> Tensor:
        return values - values.mean(dim=0) if centred else values

    def ridge(part: slice, penalty: float) -> Tensor:
        x, error = centre(inputs[part]), centre((outputs - inputs @ weight)[part])
        moments = x.mT @ x
        return torch.linalg.solve(moments + penalty * moments.diagonal().mean() * torch.eye(600), x.mT @ error)

    def left(delta: Tensor) -> float:
        x, error = centre(inputs[half:]), centre((outputs - inputs @ weight)[half:])
        return float((error - x @ delta).square().sum())

    errors = {penalty: left(ridge(slice(half), penalty)) for penalty in PENALTIES}
    best = min(errors, key=lambda penalty: errors[penalty])
    torch.testing.assert_close(fitted, weight + ridge(slice(None), best), rtol=1e-8, atol=1e-8)
    assert share == pytest.approx(1 - errors[best] / left(torch.zeros_like(weight)), rel=1e-8)


def test_no_layer_needs_more_than_its_rows_and_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear layer on flattened images: moments of its inputs would be the square of their number."""
    made = []
    gram = least_squares._gram

    def noted(rows: Tensor) -> Tensor:
        made.append(gram(rows))
        return made[-1]

    monkeypatch.setattr(least_squares, "_gram", noted)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 24 * 24, 4))
    x = images(2, 3, 24, 24)
    rc.prune(net, x, rc.Budget(macs="2x"), trained=True, data=[(images(20, 3, 24, 24, seed=1), torch.zeros(20).long())])
    assert made and all(len(matrix) <= 20 for matrix in made)


@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_gets_the_least_squares_fit_with_one_bias_a_channel(bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.ConvTranspose2d(12, 3, 2, 2, bias=bias)).eval()
    x, inputs = images(2, 3, 4, 4), images(128, 3, 4, 4, seed=1)
    plan = cut(net, x, {"0": [*range(6)]})
    small = plan.apply(net)
    rc.rectify(small, plan, x, "reconstruct", model=net, data=[inputs])
    with torch.no_grad():
        reads = small[:2](inputs).movedim(1, -1).reshape(-1, 6).double()
        wants = net(inputs).unfold(2, 2, 2).unfold(3, 2, 2).movedim(1, 3).reshape(-1, 3, 4).double()
        error = float((small(inputs) - net(inputs)).double().square().sum())
    least = 0.0
    for channel in range(3):  # six weights for each of four places, and the bias of all
        rows = torch.zeros(len(reads), 4, 25, dtype=torch.float64)
        for place in range(4):
            rows[:, place, 6 * place : 6 * place + 6] = reads
        rows[..., 24] = float(bias)
        rows, want = rows.reshape(-1, 25), wants[:, channel].reshape(-1, 1)
        least += float((rows @ torch.linalg.lstsq(rows, want, driver="gelsd").solution - want).square().sum())
    assert error == pytest.approx(least, rel=2e-3)


@pytest.mark.parametrize("shared", [1, 4])
def test_the_share_of_the_error_that_leaves_is_measured_on_the_other_half(shared: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 5, generator=generator, dtype=torch.float64) + 1
    weight, change = (torch.randn(5, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    noise = torch.randn(400, 8, generator=generator, dtype=torch.float64) + torch.arange(8)
    error = inputs @ change + noise

    def left(rows: Tensor) -> float:
        groups = rows.reshape(len(rows), -1, shared)
        return float((groups - groups.mean(dim=(0, 2), keepdim=True)).square().sum())

    options = {"centred": True, "shared": shared}
    half, _ = fit_weights(inputs[:200], error[:200], weight * 0, **options)
    _, share = fit_weights(inputs, error, weight * 0, **options)
    assert share == pytest.approx(1 - left((error - inputs @ half)[200:]) / left(error[200:]), abs=0.02)


def test_a_layer_that_runs_twice_keeps_its_weights_and_says_so():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            return self.head(self.again(self.again(x).relu()).relu())

    net, x = Twice(), images(2, 3)
    plan = cut(net, x, {analyse(net, x).prunable[0].name: [0, 1, 2, 3]})
    small = plan.apply(net)
    report = rc.rectify(small, plan, x, "reconstruct", model=net, data=[images(64, 3)])
    actions = {row.layer: row.action for row in report.rows}
    assert actions["again"] == "kept: it runs more than once" and actions["head"].startswith("reconstructed")


def test_what_is_missing_is_an_error():
    net, x = convolutions(), images(2, 3, 8, 8)
    plan = cut(net, x, {"0": [0, 1, 2]})
    with pytest.raises(ModelError, match="Pass model="):
        rc.rectify(plan.apply(net), plan, x, "reconstruct", data=[x])
    with pytest.raises(DataError, match="'reconstruct' needs data"):
        rc.rectify(plan.apply(net), plan, x, "reconstruct", model=net)
    with pytest.raises(DataError, match="'recalibrate' needs data"):
        rc.rectify(plan.apply(net), plan, x, "recalibrate")
    with pytest.raises(DataError, match="batch 0 of the data failed"):
        rc.rectify(plan.apply(net), plan, x, "recalibrate", data=[images(4, 5, 8, 8)])


def test_the_same_data_give_the_same_bytes():
    net, x = convolutions(), images(2, 3, 8, 8)
    plan = cut(net, x, {"0": [0, 1, 2, 5], "3": [0, 4]})
    states = []
    for _ in range(2):
        small = plan.apply(net)
        torch.rand(3)  # whatever was drawn before
        random_state = torch.get_rng_state()
        rc.rectify(small, plan, x, "reconstruct", model=net, data=iter([images(32, 3, 8, 8)]))
        assert torch.equal(torch.get_rng_state(), random_state)
        states.append(small.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_norms_whose_statistics_nothing_updates_keep_them() -> None:
    """Backbones of torchvision's detectors hold frozen batch norms: reset, they would stay at mean 0, variance 1."""
    frozen = pytest.importorskip("torchvision").ops.FrozenBatchNorm2d(4)
    frozen.running_mean += 0.5
    frozen.running_var += 2
    net = nn.Sequential(nn.Conv2d(3, 4, 3), frozen, nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    assert recalibrate(net, [images(16, 3, 8, 8)]) == ["3"]
    assert bool((frozen.running_mean == 0.5).all()) and bool((frozen.running_var == 3).all())
    assert not hasattr(frozen, "momentum")


def test_instance_norms_follow_the_data_too() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)).eval()
    data = [images(8, 3, 8, 8, seed=seed) + 1 for seed in range(3)]
    assert recalibrate(net, data) == ["1"]
    with torch.no_grad():
        means = torch.stack([net[0](batch).mean((0, 2, 3)) for batch in data]).mean(0)
    torch.testing.assert_close(net[1].running_mean, means, rtol=1e-4, atol=1e-5)
    assert net[1].momentum == 0.1 and not net[1].training


class Branches(nn.Module):
    """A norm that only training reaches, and one that every call reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.extra = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.extra(x) if self.training else x


def test_a_norm_that_no_batch_reaches_keeps_its_statistics() -> None:
    net = trained_look(Branches())
    before = {name: tensor.clone() for name, tensor in net.extra.state_dict().items()}
    assert recalibrate(net, [images(16, 3, 8, 8)]) == ["norm"]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.extra.state_dict().items())


@pytest.mark.parametrize(
    "data", [None, [], [images(8, 3, 8, 8), images(8, 2, 8, 8)]], ids=["none", "empty", "a batch that does not fit"]
)
def test_a_recalibration_that_fails_leaves_the_network_as_it_was(data: list[Tensor] | None) -> None:
    net = convolutions()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(DataError):
        recalibrate(net, data)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_one_example_left_over_behind_whole_batches_is_not_read() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)).eval()
    data = [images(8, 3, 2, 2), images(8, 3, 2, 2, seed=1)]
    assert recalibrate(net, data) == ["2"]
    mean = net[2].running_mean.clone()
    recalibrate(net, [*data, images(1, 3, 2, 2, seed=2)])
    assert torch.equal(net[2].running_mean, mean)


class Around(nn.Module):
    """A convolution without bias that a norm reads, and what the norm gives is added to it or not."""

    def __init__(self, *, skip: bool) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, bias=False)
        self.norm, self.skip = nn.BatchNorm2d(4), skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(torch.relu(self.first(x)))
        return self.norm(y) + y if self.skip else self.norm(y)


@pytest.mark.parametrize("skip", [False, True])
def test_a_lost_mean_is_left_to_a_norm_only_where_nothing_else_reads(
    skip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def fit(x: Tensor, y: Tensor, w: Tensor, *, centred: bool, shared: int) -> tuple[Tensor, float]:
        asked.append(centred)
        return fit_weights(x, y, w, centred=centred, shared=shared)

    monkeypatch.setattr(sys.modules["reconvene.rectifier.reconstruct"], "fit_weights", fit)
    net, x = trained_look(Around(skip=skip)), images(1, 3, 4, 4)
    plan = cut(net, x, {"first": [0, 1, 2, 3]})
    rc.rectify(plan.apply(net), plan, x, how="reconstruct", model=net, data=[images(16, 3, 4, 4)])
    assert asked == [not skip]


class Counted(Dataset[Tensor]):
    """Numbers in ascending order, as a folder lists pictures class by class, and which of them were asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        self.asked.append(index)
        return torch.tensor([float(index)])


def test_of_sorted_data_a_loader_reads_a_few_examples_of_every_stretch() -> None:
    data = Counted(1000)
    batches = list(few_of(DataLoader(data, batch_size=10), 40))
    assert [index // 25 for index in sorted(data.asked)] == list(range(40))  # no other is decoded
    assert [len(batch) for batch in batches] == [10] * 4
    assert all(float(batch.min()) < 100 and float(batch.max()) >= 900 for batch in batches)  # each is of all data


def test_batches_of_ones_own_sampler_are_left_out_whole() -> None:
    data, own = Counted(1000), [list(range(start, start + 10)) for start in range(0, 1000, 10)]
    batches = list(few_of(DataLoader(data, batch_sampler=own), 40))
    assert [int(batch[0]) // 250 for batch in batches] == [0, 1, 2, 3] and len(data.asked) == 40
    assert len(list(few_of(DataLoader(data, batch_sampler=own), 5000))) == 100


def test_a_loader_of_no_more_examples_than_wanted_is_read_as_it_is() -> None:
    for loader in (DataLoader(Counted(40), batch_size=16, shuffle=True), [images(3, 2)], iter([images(3, 2)])):
        assert few_of(loader, 40) is loader
    parts = [images(3, 2), images(5, 2, seed=1)]
    assert torch.equal(gathered(parts, 8, to_the_end=True)[0], torch.cat(parts))


@pytest.mark.parametrize("sizes", [[10] * 50, [7, 1, 90, 3, 2, 60, 300]])
def test_examples_are_gathered_from_all_batches(sizes: list[int]) -> None:
    batches = torch.arange(float(sum(sizes)))[:, None].split(sizes)
    (found,) = gathered(batches, 20, to_the_end=True)
    numbers = found.flatten().sort().values
    assert len(numbers) == 20 and float(numbers.diff().max()) <= 4 * sum(sizes) / 20
    (first,) = gathered(batches, 5, to_the_end=False)
    assert len(first) == 5 and float(first.max()) < sizes[0]
    halves = found.flatten().chunk(2)  # one of them judges the other
    assert all(float(half.min()) < 0.2 * sum(sizes) and float(half.max()) > 0.7 * sum(sizes) for half in halves)


def test_examples_of_data_that_go_through_the_classes_in_turn_are_of_all_classes() -> None:
    """Every second one was taken, and every tenth of a loader: half of the classes, and one."""
    classes = torch.arange(2000.0)[:, None] % 10
    (found,) = gathered(classes.split(128), 512, to_the_end=True)
    assert len(found) == 512 and found.flatten().long().bincount().min() > 25
    read = torch.cat([batch[0] for batch in few_of(DataLoader(TensorDataset(classes), batch_size=50), 200)])
    assert read.flatten().long().bincount(minlength=10).min() > 5


class Endless(IterableDataset[Tensor]):
    def __iter__(self):
        while True:
            yield images(1, 3)[0]


def test_norms_are_recalibrated_from_all_of_sorted_data() -> None:
    sorted_data = torch.arange(400.0)[:, None]
    whole = [sorted_data[start : start + 4] for start in range(0, 400, 4)]
    for data in (DataLoader(TensorDataset(sorted_data), batch_size=4), whole):
        net = nn.Sequential(nn.Identity(), nn.BatchNorm1d(1))
        recalibrate(net, data, examples=40)
        assert net[1].num_batches_tracked == 10 and float(net[1].running_mean) == pytest.approx(200, abs=20)
    variance = float(net[1].running_var)
    recalibrate(net, DataLoader(TensorDataset(sorted_data), batch_size=4), examples=40)
    assert float(net[1].running_var) > 1000 * variance  # batches of a loader mix what lay apart
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert recalibrate(net, DataLoader(Endless(), batch_size=8), examples=40) == ["1"]
    assert net[1].num_batches_tracked == 5


@pytest.mark.parametrize("sizes", [(10, 12, 9), (10, 1, 1)])
def test_layers_are_fitted_on_batches_of_different_shapes(sizes: tuple[int, ...]) -> None:
    """Padded texts and pictures of several scales: no batch of all examples can be made."""
    net, x = Decoder(), images(2, 3, 10)
    copies(net, "first", None, {4: (0, 2.0), 5: (1, 0.5)})
    plan = cut(net, x, {"first": [0, 1, 2, 3]})
    small = plan.apply(net)
    data = [images(60, 3, length, seed=length) for length in sizes]
    report = rc.rectify(small, plan, x, "reconstruct", model=net, data=data)
    assert {row.layer for row in report.rows if row.action.startswith("reconstructed")} >= {"up"}
    test = images(8, 3, 14, seed=2)
    torch.testing.assert_close(small(test), net(test), atol=1e-4, rtol=1e-3)


def test_batches_of_different_shapes_give_as_good_a_fit_as_one_batch() -> None:
    net, x = convolutions(), images(2, 3, 8, 8)
    plan = cut(net, x, {"0": [0, 1, 2, 3, 4], "3": [0, 1, 2, 3]})
    test, errors = images(64, 3, 8, 8, seed=5), []
    for height in (8, 7):  # behind the stride both are 4 high
        small = plan.apply(net)
        data = [images(64, 3, 8, 8), images(64, 3, height, 8, seed=1)]
        report = rc.rectify(small, plan, x, "reconstruct", model=net, data=data)
        assert all(row.action.startswith("reconstructed") for row in report.rows if row.layer in ("3", "6"))
        errors.append(float((small(test) - net(test)).detach().square().mean()))
    assert errors[1] == pytest.approx(errors[0], rel=0.3)


class Tied(nn.Module):
    """Two layers share one weight, and read different inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(4, 8)
        self.one, self.other, self.head = nn.Linear(8, 6, bias=False), nn.Linear(8, 6, bias=False), nn.Linear(8, 2)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).relu(), self.second(x).sigmoid()
        return torch.cat([self.one(a), self.other(b), self.head(a)], dim=1)


def test_layers_that_share_a_weight_keep_it() -> None:
    net, x = Tied(), images(2, 4)
    plan = cut(net, x, {analyse(net, x).prunable[0].name: [0, 1, 2, 3]})
    small = plan.apply(net)
    before = small.one.weight.detach().clone()
    report = rc.rectify(small, plan, x, "reconstruct", model=net, data=[images(64, 4)])
    actions = {row.layer: row.action for row in report.rows}
    assert actions["one"] == "kept: tied to other" and actions["other"] == "kept: tied to one"
    assert actions["head"].startswith("reconstructed")
    assert torch.equal(small.one.weight, before) and small.other.weight is small.one.weight


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.rnn, self.head = nn.Linear(4, 8), nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.first(x).relu())[0])


@pytest.mark.parametrize("lengths", [(5, 5), (5, 7)])
def test_layers_of_several_weights_keep_them(lengths: tuple[int, ...]) -> None:
    net, x = Recurrent(), images(2, 5, 4)
    plan = cut(net, x, {"first": [0, 1, 2, 3, 4]})
    small = plan.apply(net)
    before = {name: value.clone() for name, value in small.rnn.state_dict().items()}
    report = rc.rectify(small, plan, x, "reconstruct", model=net, data=[images(8, length, 4) for length in lengths])
    assert {row.layer: row.action for row in report.rows}["rnn"] == "kept"
    assert all(torch.equal(value, before[name]) for name, value in small.rnn.state_dict().items())


def test_frozen_weights_and_biases_stay_unless_all_are_frozen() -> None:
    net, x = convolutions(), images(2, 3, 8, 8)
    net[3].weight.requires_grad_(False)
    net[6].bias.requires_grad_(False)
    plan = cut(net, x, {"0": [0, 1, 2, 3, 4], "3": [0, 1, 2, 3]})
    data = [images(64, 3, 8, 8)]
    small, before = plan.apply(net), plan.apply(net)
    report = rc.rectify(small, plan, x, "reconstruct", model=net, data=data)
    actions = {row.layer: row.action for row in report.rows}
    assert actions["3"] == "kept: frozen" and actions["6"].startswith("reconstructed")
    assert torch.equal(small[3].weight, before[3].weight) and torch.equal(small[6].bias, before[6].bias)
    net.requires_grad_(False)  # as for inference
    report = rc.rectify(plan.apply(net), plan, x, "reconstruct", model=net, data=data)
    assert all(row.action.startswith("reconstructed") for row in report.rows if row.layer in ("3", "6"))


def parametrised(how: str) -> nn.Sequential:
    torch.manual_seed(0)
    wrap = {
        "weight_norm": nn.utils.parametrizations.weight_norm,
        "spectral_norm": nn.utils.parametrizations.spectral_norm,
        "old weight_norm": nn.utils.weight_norm,
    }[how]
    return nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), wrap(nn.Conv2d(6, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "old weight_norm"])
def test_a_parametrised_layer_is_fitted_where_its_parametrisation_can_give_the_weight(how: str) -> None:
    net, x = parametrised(how), images(2, 3, 6, 6)
    copies(net, "0", None, {4: (0, 2.0), 5: (1, 0.5)})
    plan = cut(net, x, {"0": [0, 1, 2, 3]})
    small = plan.apply(net).eval()
    originals = {name: value.clone() for name, value in small.state_dict().items() if name.startswith("2.")}
    report = rc.rectify(small, plan, x, "reconstruct", model=net, data=[images(128, 3, 6, 6)])
    action = next(row.action for row in report.rows if row.layer == "2")
    test = images(8, 3, 6, 6, seed=3)
    if how == "weight_norm":
        assert action.startswith("reconstructed")
        torch.testing.assert_close(small(test), net(test), atol=1e-4, rtol=1e-3)
    else:
        assert action == "kept: parametrised"
        assert all(
            torch.equal(value, originals[name]) for name, value in small.state_dict().items() if name in originals
        )
    if how != "old weight_norm":
        report = rc.rectify(plan.apply(net), plan, x, "reinit")
        row = next(row for row in report.rows if row.layer == "2")
        assert row.action == "kept: parametrised" and row.touched
