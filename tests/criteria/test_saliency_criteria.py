"""Each criterion on a case worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from reconvene.criteria import CRITERIA, objective, score
from reconvene.errors import CriterionError, UnknownNameError


def two_layers() -> nn.Sequential:
    """x -> relu(W1 x) -> W2, with W1 = [[1, -2], [3, 4]] and W2 = [[5, -6]]."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        net[2].weight.copy_(torch.tensor([[5.0, -6.0]]))
        net[0].bias.fill_(100.0)
        net[2].bias.fill_(100.0)
    return net


def without_biases(net: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        net[0].bias.zero_()
        net[2].bias.zero_()
    return net


def product(output: Tensor, target: Tensor) -> Tensor:
    return (output * target).sum()


ONES = torch.ones(1, 2)
POSITIVE = (ONES, torch.tensor([[1.0]]))
NEGATIVE = (ONES, torch.tensor([[-1.0]]))


def test_magnitude_by_hand() -> None:
    found = score(two_layers(), ONES, "magnitude").scores
    assert torch.equal(found["0.weight"], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert torch.equal(found["2.weight"], torch.tensor([[5.0, 6.0]]))
    assert set(found) == {"0.weight", "2.weight"}  # biases and norm scales carry no score


def test_synflow_by_hand_and_biases_do_not_leak() -> None:
    # R = |W2| |W1| 1 = 5 * (1 + 2) + 6 * (3 + 4) = 57, with biases of 100 left out
    found = score(two_layers(), -3.0 * ONES, "synflow", rounds=1).scores
    assert torch.allclose(found["0.weight"] * 57, torch.tensor([[5.0, 10.0], [18.0, 24.0]]))
    assert torch.allclose(found["2.weight"] * 57, torch.tensor([[15.0, 42.0]]))


def test_snip_by_hand_sums_gradients_before_the_absolute_value() -> None:
    # h = relu([1 - 2, 3 + 4]) = [0, 7], L = 5 * 0 - 6 * 7
    net = without_biases(two_layers())
    found = score(net, ONES, "snip", data=[POSITIVE], loss=product).scores
    assert torch.allclose(found["2.weight"], torch.tensor([[0.0, 42.0]]))
    assert torch.allclose(found["0.weight"], torch.tensor([[0.0, 0.0], [18.0, 24.0]]))
    twice = score(net, ONES, "snip", data=[POSITIVE, POSITIVE, NEGATIVE], loss=product).scores
    assert torch.allclose(twice["2.weight"], found["2.weight"])  # 1 + 1 - 1 = 1, not 3
    cancelled = score(net, ONES, "snip", data=[POSITIVE, NEGATIVE], loss=product).scores
    assert not any(view.any() for view in cancelled.values())


class Point(nn.Module):
    """A network that is nothing but a vector of weights."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.reshape(1, -1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.theta.reshape(-1) * inputs.sum(0).clamp(1.0, 1.0)


def quadratic(seed: int, size: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(size, size, generator=generator)
    return half @ half.T, torch.randn(size, generator=generator), torch.randn(size, generator=generator)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grasp_on_a_quadratic_with_known_hessian(seed: int) -> None:
    hessian, linear, theta = quadratic(seed)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * output @ hessian @ output - linear @ output

    data = [(torch.ones(1, 5), torch.zeros(1))]
    found = score(Point(theta), torch.ones(1, 5), "grasp", data=data, loss=loss).scores["theta"].reshape(-1)
    gradient = hessian @ theta - linear
    flow = gradient @ gradient
    assert torch.allclose(found, theta * (hessian @ gradient) / flow, rtol=1e-4, atol=1e-6)
    # high = keep: shrinking a weight by a small part of itself costs gradient flow in proportion to its score
    part = 1e-3
    for index in range(5):
        smaller = theta.double().clone()
        smaller[index] *= 1 - part
        left = (hessian.double() @ smaller - linear.double()).square().sum()
        fall = (1 - left / flow.double()) / (2 * part)
        assert float(fall) == pytest.approx(float(found[index]), rel=0.05, abs=0.02)


def test_grasp_divides_logits_by_200_under_the_default_loss_only() -> None:
    torch.manual_seed(0)
    net, inputs, target = nn.Linear(4, 3, bias=False), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])

    def cooled(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output / 200.0, target)

    default = score(net, inputs, "grasp", data=[(inputs, target)]).scores["weight"]
    own = score(net, inputs, "grasp", data=[(inputs, target)], loss=cooled).scores["weight"]
    hot = score(net, inputs, "grasp", data=[(inputs, target)], loss=nn.functional.cross_entropy).scores["weight"]
    assert torch.equal(default, own)
    assert not torch.allclose(default, hot)


def test_grasp_sums_the_hessian_of_all_batches() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    inputs, target = torch.randn(6, 4), torch.randn(6, 2)

    def squares(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().sum()

    whole = score(net, inputs, "grasp", data=[(inputs, target)], loss=squares).scores
    cut = score(net, inputs, "grasp", data=[(inputs[:2], target[:2]), (inputs[2:], target[2:])], loss=squares).scores
    for name, view in whole.items():
        assert torch.allclose(view, cut[name], rtol=1e-3, atol=1e-6)


def test_snip_does_not_depend_on_how_the_data_is_cut_or_held() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    images, labels = torch.randn(8, 1, 6, 6), torch.arange(8) % 3

    def total(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target, reduction="sum")

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        yield images[:4], labels[:4]
        yield images[4:], labels[4:]

    held = score(net, images, "snip", data=[(images[:4], labels[:4]), (images[4:], labels[4:])], loss=total, rounds=3)
    streamed = score(net, images, "snip", data=stream(), loss=total, rounds=3)
    assert streamed.data == "2 batches, 8 samples, 3 classes"
    for name, view in held.scores.items():
        assert torch.equal(view, streamed.scores[name])
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    rows = torch.randn(8, 4)
    whole = score(plain, rows, "snip", data=[(rows, labels)], loss=total).scores
    cut = score(plain, rows, "snip", data=[(rows[:3], labels[:3]), (rows[3:], labels[3:])], loss=total).scores
    for name, view in whole.items():
        assert torch.allclose(view, cut[name], atol=1e-6)


def test_data_says_its_own_name() -> None:
    class Digits(list):  # type: ignore[type-arg]
        def __str__(self) -> str:
            return "handwritten digits, train"

    net, batch = nn.Linear(2, 2), (torch.ones(3, 2), torch.tensor([0, 1, 1]))
    assert score(net, ONES, "snip", data=Digits([batch])).data == (
        "handwritten digits, train (1 batch, 3 samples, 2 classes)"
    )
    assert score(net, ONES, "synflow", data=[batch]).data is None


def test_random_depends_on_the_seed_alone() -> None:
    first, again, other = (score(two_layers(), ONES, "random", seed=seed).scores["0.weight"] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.min()) > 0 and float(first.max()) <= 1


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_data_driven_criteria_say_what_to_pass(criterion: str) -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(CriterionError, match=r"data= takes an iterable of \(inputs, target\) batches"):
        score(net, ONES, criterion)
    with pytest.raises(CriterionError, match="empty data"):
        score(net, ONES, criterion, data=[])
    with pytest.raises(CriterionError, match="not a pair"):
        score(net, ONES, criterion, data=(torch.ones(3, 2), torch.ones(3)))
    with pytest.raises(CriterionError, match="batch 0 of the data failed"):
        score(net, ONES, criterion, data=[(torch.ones(3, 7), torch.zeros(3, dtype=torch.long))])
    with pytest.raises(CriterionError, match="type Tensor"):
        score(net, ONES, criterion, data=torch.ones(3, 2))
    with pytest.raises(CriterionError, match="not finite"):
        score(net, ONES, criterion, data=[POSITIVE], loss=lambda output, target: output.sum() * torch.inf)


def test_a_structured_output_needs_a_loss() -> None:
    class Pair(nn.Linear):
        def forward(self, input: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"logits": super().forward(input)}

    data = [(ONES, torch.tensor([1]))]
    with pytest.raises(CriterionError, match="Pass loss="):
        score(Pair(2, 2), ONES, "snip", data=data)
    found = score(
        Pair(2, 2), ONES, "snip", data=data, loss=lambda out, y: nn.functional.cross_entropy(out["logits"], y)
    )
    assert found.scores["weight"].shape == (2, 2)


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_non_finite_weights_are_named(criterion: str) -> None:
    net = two_layers()
    with torch.no_grad():
        net[2].weight[0, 1] = float("nan")
    with pytest.raises(CriterionError, match=r"2\.weight"):
        score(net, ONES, criterion, data=[POSITIVE], loss=product)


def test_what_cannot_be_scored_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="grasp, magnitude, random, snip, synflow"):
        score(two_layers(), ONES, "snap")
    with pytest.raises(CriterionError, match="nothing to score"):
        score(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()), ONES)
    with pytest.raises(CriterionError, match="lazy"):
        score(nn.Sequential(nn.LazyLinear(3)), ONES)
    with pytest.raises(CriterionError, match="does not run"):
        score(two_layers(), torch.ones(1, 5))


def test_a_last_layer_that_starts_at_zero_counts_evenly_and_is_named() -> None:
    started = two_layers()
    nn.init.zeros_(started[2].weight)
    found = score(started, ONES)
    assert found.evened == ("2.weight",) and found.note == "2.weight, all zero, as if even"
    assert score(two_layers(), ONES).evened == () and score(two_layers(), ONES).note is None
    nn.init.constant_(started[2].weight, 0.5)
    even = score(started, ONES)
    assert all(torch.allclose(found.scores[name], even.scores[name]) for name in found.scores)


def test_objectives_are_shares_of_the_dense_network() -> None:
    net, data = without_biases(two_layers()), [POSITIVE]
    cut = {"2.weight": torch.tensor([[1.0, 0.0]]), "0.bias": torch.zeros(2)}
    expected = {"synflow": 15 / 57, "magnitude": 15 / 21, "snip": 42 / 84}
    for criterion, share in expected.items():
        value = objective(net, ONES, criterion, data=data, loss=product)
        assert value(None) == pytest.approx(1.0)
        assert value(cut) == pytest.approx(share)
        assert value(None) == pytest.approx(1.0)  # asking leaves no mask behind
    rows = {"0.weight": torch.tensor([[1.0], [0.0]])}  # broadcasts
    assert objective(net, ONES, "synflow")(rows) == pytest.approx(15 / 57)
    with pytest.raises(UnknownNameError, match="parameter"):
        objective(net, ONES, "synflow")({"weight": torch.ones(1)})


def test_grasp_objective_predicts_the_gradient_flow() -> None:
    hessian, linear, theta = quadratic(0)
    data = [(torch.ones(1, 5), torch.zeros(1))]
    value = objective(
        Point(theta), torch.ones(1, 5), "grasp", data=data, loss=lambda out, _: 0.5 * out @ hessian @ out - linear @ out
    )
    shrink = 0.999
    before, after = hessian @ theta - linear, hessian.double() @ (shrink * theta.double()) - linear
    ratio = float(after.square().sum() / before.double().square().sum())
    assert 1 - value({"theta": torch.tensor(shrink)}) == pytest.approx(1 - ratio, rel=0.05)
