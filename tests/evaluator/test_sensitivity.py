"""Sensitivity: curves are what the criterion says, in one unit, and nothing is invented for pinned groups."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reconvene.errors import CriterionError, UnknownNameError
from reconvene.evaluator import EVALUATORS, evaluate_groups
from reconvene.evaluator.ablation import without
from reconvene.evaluator.channels import channel_scores
from reconvene.evaluator.curves import isotonic
from reconvene.evaluator.density import NEAR, invert
from reconvene.evaluator.widths_from_density import _model, equations, log_densities, solve_levels
from reconvene.structure.groups import Group, Slot

LEVELS = np.geomspace(1.0, 1 / 16, 25)
# (name, out, in): a chain of dense layers whose inner widths are groups
CHAIN = ((8, 3), (16, 8), (32, 16), (10, 32))


@dataclass
class FakeSaliency:
    scores: dict
    densities: dict
    levels: np.ndarray = field(default_factory=lambda: LEVELS)
    criterion: str = "synflow"


def slot(name: str, dim: int, width: int, *, start: int = 0, repeat: int = 1) -> Slot:
    index = start + np.arange(width * repeat, dtype=np.int64).reshape(width, repeat)
    return Slot(name, dim, index)


def chain_groups() -> list[Group]:
    groups = []
    for i, (out, _) in enumerate(CHAIN[:-1]):
        groups.append(Group(f"l{i}", out, (slot(f"l{i}", 0, out), slot(f"l{i + 1}", 1, out))))
    return groups


def structure(groups: list[Group], pinned: tuple[Group, ...] = (), shapes: dict | None = None) -> SimpleNamespace:
    shapes = {f"l{i}": shape for i, shape in enumerate(CHAIN)} if shapes is None else shapes
    recording = SimpleNamespace(parameters={})
    return SimpleNamespace(
        groups=(*groups, *pinned),
        prunable=tuple(groups),
        balances=(),
        shapes=shapes,
        recording=recording,
        eval_ops=list,
    )


def saliency_of(
    shares: np.ndarray, groups: list[Group], shapes: dict[str, tuple[int, ...]], seed: int = 0
) -> FakeSaliency:
    """Densities that follow the product model exactly: shares[levels, groups]."""
    generator = torch.Generator().manual_seed(seed)
    densities = {}
    for name, shape in shapes.items():
        density = np.ones(len(shares))
        for dim in range(len(shape)):
            cover = np.array(
                [sum(s.index.size for s in g.slots if (s.parameter, s.dim) == (name, dim)) for g in groups]
            )
            part = cover / shape[dim]
            density *= shares @ part + (1 - part.sum())
        densities[name] = density
    scores = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return FakeSaliency(scores, densities)


def chain_case(rates: tuple[float, ...] = (0.1, 0.5, 0.9)) -> tuple[list[Group], FakeSaliency]:
    groups = chain_groups()
    shares = LEVELS[:, None] ** np.array(rates)[None, :]
    return groups, saliency_of(shares, groups, {f"l{i}": shape for i, shape in enumerate(CHAIN)})


def recovered(groups: list[Group], saliency: FakeSaliency) -> np.ndarray:
    system = equations(groups, {n: tuple(s.shape) for n, s in saliency.scores.items()})
    return np.exp(solve_levels(system, log_densities(system, saliency.densities)))


def explained(groups: list[Group], saliency: FakeSaliency) -> np.ndarray:
    """How far the solved widths' layer densities are from the given ones: factors, [levels, weights]."""
    system = equations(groups, {n: tuple(s.shape) for n, s in saliency.scores.items()})
    logs = log_densities(system, saliency.densities)
    predicted = _model(system, solve_levels(system, logs))[0]
    return np.exp(np.abs(predicted - logs))


@pytest.mark.parametrize("rates", [(0.3, 0.3, 0.3), (0.2, 0.4, 0.5), (0.1, 0.3, 0.2)])
def test_product_densities_are_met_and_shares_come_near_those_they_were_made_of(rates):
    groups, saliency = chain_case(rates)
    assert explained(groups, saliency).max() < 1.1
    expected = LEVELS[:, None] ** np.array(rates)
    assert np.abs(np.log(recovered(groups, saliency) / expected)).max() < 0.1


def test_concatenated_inputs_are_solved_as_the_mixture_they_are():
    shapes = {"a": (8, 3, 3, 3), "b": (24, 3, 3, 3), "c": (10, 32, 1, 1)}
    groups = [
        Group("a", 8, (slot("a", 0, 8), slot("c", 1, 8))),
        Group("b", 24, (slot("b", 0, 24), slot("c", 1, 24, start=8))),
    ]
    shares = LEVELS[:, None] ** np.array([0.2, 0.7])
    saliency = saliency_of(shares, groups, shapes)
    # Taken for the whole input, each group would have to explain the density of the mixture alone.
    assert np.abs(np.log(recovered(groups, saliency) / shares)).max() < 0.3


def test_flatten_and_depthwise_and_residual_slots_are_one_unknown_each():
    shapes = {"stem": (16, 3, 3, 3), "dw": (16, 1, 3, 3), "res": (16, 16, 3, 3), "fc": (10, 16 * 4)}
    slots = [slot("stem", 0, 16), slot("dw", 0, 16), slot("res", 0, 16), slot("res", 1, 16)]
    groups = [Group("stem", 16, (*slots, slot("fc", 1, 16, repeat=4)))]
    shares = LEVELS[:, None] ** np.array([0.4])
    assert np.allclose(recovered(groups, saliency_of(shares, groups, shapes)), shares, rtol=0.05)


def test_one_dead_layer_does_not_drag_its_coupled_group_down():
    shapes = {f"r{i}": (64, 64, 3, 3) for i in range(2)} | {"short": (64, 16, 1, 1)}
    slots = [slot(name, dim, 64) for name in ("r0", "r1") for dim in (0, 1)]
    groups = [Group("stage", 64, (*slots, slot("short", 0, 64))), Group("before", 16, (slot("short", 1, 16),))]
    saliency = saliency_of(LEVELS[:, None] ** np.array([0.3, 0.3]), groups, shapes)
    honest = recovered(groups, saliency)[:, 0]
    saliency.densities["short"] = np.where(LEVELS < 1, 0.0, 1.0)
    assert np.abs(np.log(recovered(groups, saliency)[:, 0] / honest)).max() < 0.1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_small_errors_of_the_product_model_do_not_become_wide_and_narrow_in_turn(seed):
    count = 12
    shapes = {f"l{i}": (64, 64) for i in range(count)}
    groups = [Group(f"l{i}", 64, (slot(f"l{i}", 0, 64), slot(f"l{i + 1}", 1, 64))) for i in range(count - 1)]
    saliency = saliency_of(np.repeat(LEVELS[:, None] ** 0.5, count - 1, axis=1), groups, shapes)
    random = np.random.default_rng(seed)
    for name in shapes:
        saliency.densities[name] = np.minimum(saliency.densities[name] * np.exp(random.uniform(-0.2, 0.2)), 1.0)
        saliency.densities[name][0] = 1.0
    # The two ends see a pinned neighbour; between them widths were even, and stay so within the errors times two.
    inner = np.log(recovered(groups, saliency)[-1, 2:-2])
    assert np.ptp(inner) < 0.8


def test_what_the_equations_leave_open_stays_finite_and_symmetric():
    groups = [
        Group("a", 16, (slot("w", 0, 16),)),
        Group("b", 16, (slot("w", 1, 16),)),
    ]
    saliency = FakeSaliency({"w": torch.rand(16, 16)}, {"w": LEVELS.copy()})
    shares = recovered(groups, saliency)
    assert np.allclose(shares[:, 0], shares[:, 1])
    assert np.allclose(shares[:, 0] ** 2, LEVELS, rtol=0.01)


@pytest.mark.parametrize("rates", [(0.1, 0.5, 0.9), (0.5, 0.5, 0.5), (0.0, 0.3, 0.6)])
def test_one_water_level_is_the_joint_widths_at_that_density(rates):
    groups, saliency = chain_case(rates)
    result = evaluate_groups(structure(groups), saliency, evaluator="density")
    shares = recovered(groups, saliency)
    for level in (5, 12, 24):
        tau = -math.log(LEVELS[level]) + 1e-9
        for g, curve in enumerate(result.curves):
            kept = int(np.argmax(curve.loss <= tau))
            exact = shares[level, g] * curve.width
            assert exact - 2 * NEAR <= kept <= max(1, math.ceil(exact))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    noise=st.floats(0, 1.5),
    evaluator=st.sampled_from(["fan_in", "density", "reach", "concentration", "ablation"]),
)
def test_every_curve_is_monotone_zero_when_whole_and_infinite_when_gone(seed, noise, evaluator):
    groups, saliency = chain_case()
    random = np.random.default_rng(seed)
    for name, density in saliency.densities.items():
        noisy = np.clip(density * np.exp(noise * random.normal(size=density.shape)), 0, 1)
        noisy[0] = 1.0
        saliency.densities[name] = noisy

    def objective(masks):
        return 1.0 if masks is None else float(random.uniform(0, 1.2))

    result = evaluate_groups(structure(groups), saliency, evaluator=evaluator, objective=objective)
    for group, curve in zip(groups, result.curves, strict=True):
        assert curve.loss.shape == (group.width + 1,)
        assert curve.loss[-1] == 0 and curve.loss[0] == np.inf
        assert np.all(np.diff(curve.loss[1:]) <= 1e-12)
        assert np.all(np.isfinite(curve.loss[1:])) and np.all(curve.loss >= 0)
        assert 1 <= curve.implied <= group.width


def test_a_group_no_density_touches_is_dearer_than_one_that_is_cut():
    loss_resilient = invert(-np.log(LEVELS), np.zeros(len(LEVELS)), 32)
    loss_cut = invert(-np.log(LEVELS), -np.log(LEVELS) / 2, 32)
    assert np.all(loss_resilient[1:32] > loss_cut[1:32] + 1)
    assert loss_resilient[31] >= -np.log(LEVELS[-1])


def test_extrapolation_goes_on_along_the_last_slope():
    nats = -np.log(LEVELS)
    loss = invert(nats, nats / 2, 512)
    deep = np.arange(1, 16)
    assert np.allclose(loss[deep], 2 * np.log(512 / (deep + NEAR)), rtol=1e-6)


def test_fan_in_adds_reciprocal_sizes_over_the_weights_that_a_group_touches():
    """Half of each side: a group between two layers counts once, a stream for all its layers, a depthwise one not."""
    shapes = {"w": (8, 3), "v": (3, 8), "deep": (8, 1, 3, 3), "flat": (5, 16), "bias": (8, 1)}
    chain = Group("chain", 8, (slot("w", 0, 8), slot("v", 1, 8), slot("deep", 0, 8)))
    read_twice = Group("stream", 8, (slot("w", 0, 8), slot("v", 1, 8), slot("w", 0, 8), slot("v", 1, 8)))
    alone = Group("alone", 8, (slot("deep", 0, 8),))
    pairs = Slot("flat", 1, np.arange(16).reshape(8, 2))
    flattened = Group("flattened", 8, (slot("w", 0, 8), pairs))
    part = Group("part", 3, (Slot("v", 1, np.arange(3).reshape(3, 1)),))
    result = evaluate_groups(structure([chain, read_twice, alone, flattened, part], shapes=shapes), evaluator="fan_in")
    assert result.adds_up
    kept = np.arange(1, 9)
    once = 1 / kept - 1 / 8
    squares = [curve.loss[1:] ** 2 for curve in result.curves]
    assert np.allclose(squares[0], once) and np.allclose(squares[1], 2 * once) and np.allclose(squares[2], once)
    assert np.allclose(squares[3], 0.5 * once + 0.5 * (1 / (2 * kept) - 1 / 16))
    assert np.allclose(squares[4], 0.5 * (1 / (8 - 3 + kept[:3]) - 1 / 8))


def test_reach_counts_a_group_once_for_every_two_weights_it_touches():
    groups = [Group("a", 4, (slot("w", 0, 4), slot("v", 1, 4))), Group("b", 3, tuple(slot(n, 0, 3) for n in "vxyz"))]
    scores = {"w": torch.ones(4, 1), "v": torch.ones(3, 4), **{n: torch.ones(3, 1) for n in "xyz"}}
    saliency = FakeSaliency(scores, {name: np.linspace(1, 0.1, 25) for name in scores})
    near, far = evaluate_groups(structure(groups), saliency, evaluator="reach").curves
    plain = evaluate_groups(structure(groups), saliency, evaluator="density").curves
    assert np.allclose(near.loss[1:], plain[0].loss[1:]) and np.allclose(far.loss[1:], 2 * plain[1].loss[1:])


def test_concentration_counts_what_the_best_channels_hold():
    groups = [Group("a", 4, (slot("w", 0, 4),))]
    score = torch.tensor([[4.0], [1.0], [3.0], [2.0]])
    saliency = FakeSaliency({"w": score}, {"w": np.ones(25)})
    curve = evaluate_groups(structure(groups), saliency, evaluator="concentration").curves[0]
    assert np.allclose(curve.loss[1:], [0.6, 0.3, 0.1, 0.0])
    assert curve.channel_score.tolist() == [4, 1, 3, 2]


def test_concentration_forgets_weights_the_criterion_removes():
    groups = [Group("a", 4, (slot("w", 0, 4),))]
    saliency = FakeSaliency({"w": torch.tensor([[4.0], [1.0], [3.0], [2.0]])}, {"w": np.linspace(1, 0.5, 25)})
    curve = evaluate_groups(structure(groups), saliency, evaluator="concentration").curves[0]
    assert np.allclose(curve.loss[1:], [3 / 7, 0, 0, 0])


def test_concentration_of_a_group_with_nothing_kept_is_even_not_insensitive():
    groups = [Group("a", 4, (slot("w", 0, 4),))]
    saliency = FakeSaliency({"w": torch.zeros(4, 1)}, {"w": np.ones(25)})
    curve = evaluate_groups(structure(groups), saliency, evaluator="concentration").curves[0]
    assert np.allclose(curve.loss[1:], [0.75, 0.5, 0.25, 0])


def test_ablation_measures_the_fall_with_only_the_best_channels_left():
    groups, saliency = chain_case()

    def objective(masks):
        if masks is None:
            return float(saliency.scores["l1"].sum())
        assert set(masks) <= {"l0", "l1", "l2", "l3"}
        return float((saliency.scores["l1"] * masks.get("l1", 1.0)).sum())

    curve = evaluate_groups(structure(groups), saliency, evaluator="ablation", objective=objective).curves[1]
    ranked = np.argsort(-curve.channel_score)
    rows = saliency.scores["l1"].sum(1).numpy()
    for kept in (1, 2, 4, 8, 12):
        assert math.isclose(curve.loss[kept], 1 - rows[ranked[:kept]].sum() / rows.sum(), rel_tol=1e-4)


def test_masks_cut_exactly_the_positions_of_the_channels():
    group = Group("a", 3, (slot("w", 0, 3), slot("v", 1, 3, repeat=2)))
    scores = {"w": torch.rand(3, 5), "v": torch.rand(4, 6)}
    masks = without(group, np.array([1]), scores)
    assert masks["w"].sum(1).tolist() == [5, 0, 5]
    assert masks["v"].sum(0).tolist() == [4, 4, 0, 0, 4, 4]


@pytest.mark.parametrize("whole", [0.0, -1.0, float("nan"), float("inf")])
def test_ablation_refuses_an_objective_it_cannot_compare_with(whole):
    groups, saliency = chain_case()
    with pytest.raises(CriterionError, match="whole network"):
        evaluate_groups(structure(groups), saliency, evaluator="ablation", objective=lambda masks: whole)


def test_ablation_says_what_it_needs():
    groups, saliency = chain_case()
    with pytest.raises(CriterionError, match="objective="):
        evaluate_groups(structure(groups), saliency, evaluator="ablation")


def test_channel_score_sums_producers_and_consumers():
    group = Group("a", 3, (slot("w", 0, 3), slot("v", 1, 3, repeat=2), slot("bias", 0, 3)))
    scores = {"w": torch.rand(3, 5, 2, 2), "v": torch.rand(4, 6)}
    expected = scores["w"].sum((1, 2, 3)) + scores["v"].sum(0).reshape(3, 2).sum(1)
    assert np.allclose(channel_scores([group], scores)[0], expected.numpy(), rtol=1e-6)


def test_pinned_groups_have_a_reason_and_no_number():
    groups, saliency = chain_case()
    pinned = Group("out", 10, (slot("l3", 0, 10),), pinned="network output")
    result = evaluate_groups(structure(groups, (pinned,)), saliency)
    row = result.rows[-1]
    assert (row.group, row.prunable, row.reason) == ("out", False, "network output")
    assert row.density is None and row.sensitivity is None and row.implied is None
    text = str(result)
    assert "no: network output" in text and "root of reciprocal channels" in text
    parsed = json.loads(result.to_json())
    assert parsed["groups"][-1] == {"group": "out", "width": 10, "prunable": False, "reason": "network output"}
    assert parsed["groups"][0]["loss"][0] is None


def test_unknown_evaluator_and_bad_density_and_nothing_to_judge_by():
    groups, saliency = chain_case()
    with pytest.raises(UnknownNameError, match="ablation, concentration, density, fan_in, reach"):
        evaluate_groups(structure(groups), saliency, evaluator="guess")
    with pytest.raises(CriterionError, match="share of weights"):
        evaluate_groups(structure(groups), saliency, density=0.0)
    other = FakeSaliency({"elsewhere": torch.rand(2, 2)}, {"elsewhere": np.ones(25)})
    with pytest.raises(CriterionError, match="none of them touches"):
        evaluate_groups(structure(groups), other, evaluator="density")


@pytest.mark.parametrize("name", [name for name in EVALUATORS if EVALUATORS[name].reads])
def test_an_evaluator_is_refused_what_it_declares_to_read_and_does_not_get(name):
    groups, saliency = chain_case()
    with pytest.raises(CriterionError, match=r"no criterion was asked for|objective="):
        evaluate_groups(structure(groups), None, evaluator=name)
    if "levels" in EVALUATORS[name].reads:
        with pytest.raises(CriterionError, match="levels=True"):
            evaluate_groups(structure(groups), FakeSaliency(saliency.scores, {}, np.empty(0)), evaluator=name)


def test_values_without_a_reader_are_neither_computed_nor_shown():
    groups, saliency = chain_case()
    bare = evaluate_groups(structure(groups), evaluator="fan_in")
    scored = evaluate_groups(structure(groups), FakeSaliency(saliency.scores, {}, np.empty(0)), evaluator="fan_in")
    assert all(curve.channel_score is None and curve.density is None for curve in bare.curves)
    assert all(curve.channel_score is not None and curve.implied is None for curve in scored.curves)
    assert all(np.array_equal(a.loss, b.loss) for a, b in zip(bare.curves, scored.curves, strict=True))
    assert "density" not in str(bare).split("\n")[1] and "density" in str(evaluate_groups(structure(groups), saliency))
    assert json.loads(bare.to_json())["groups"][0]["implied"] is None and bare.criterion == ""


def test_nothing_prunable_gives_a_table_of_reasons():
    pinned = Group("out", 10, (slot("l3", 0, 10),), pinned="network output")
    result = evaluate_groups(structure([], (pinned,)), FakeSaliency({}, {}))
    assert result.curves == () and len(result.rows) == 1


def test_same_input_same_bytes():
    groups, saliency = chain_case()
    for name in EVALUATORS:
        runs = [
            evaluate_groups(
                structure(groups), saliency, evaluator=name, objective=lambda m: 1.0 if m is None else 0.5
            ).to_json()
            for _ in range(2)
        ]
        assert runs[0] == runs[1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_isotonic_is_monotone_keeps_the_mean_and_leaves_monotone_input_alone(values):
    given_values = np.array(values)
    smooth = isotonic(given_values)
    assert np.all(np.diff(smooth) >= -1e-12)
    assert math.isclose(smooth.mean(), given_values.mean(), abs_tol=1e-9)
    assert np.allclose(isotonic(np.sort(given_values)), np.sort(given_values))


def test_fan_in_counts_the_first_layer_of_grey_images_and_a_head_of_one_but_no_depthwise_layer() -> None:
    """A weight with one input or one output is depthwise only where the layer has groups."""
    from torch import nn

    from reconvene.structure import analyse

    def once(*layers: nn.Module, channels: int) -> np.ndarray:
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1))
        found = analyse(model, torch.randn(2, channels, 8, 8))
        return evaluate_groups(found, evaluator="fan_in").curves[0].loss[1:] ** 2

    kept = np.arange(1, 17)
    side = 0.5 * (1 / kept - 1 / 16)
    for channels in (1, 3):
        assert np.allclose(once(nn.Conv2d(channels, 16, 3), nn.ReLU(), channels=channels), 2 * side), "both sides"
    depthwise = nn.Conv2d(16, 16, 3, groups=16)
    assert np.allclose(once(nn.Conv2d(3, 16, 3), depthwise, nn.ReLU(), channels=3), 2 * side)
