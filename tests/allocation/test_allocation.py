"""Allocation: every budget kept, the tightest filled, equations held, little lost; same input, same widths."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconvene.allocation import allocate
from reconvene.allocation.candidates import allowed_widths, ladders, step_of
from reconvene.allocation.constraints import repair, simplify_equations
from reconvene.costs import Budget
from reconvene.errors import BudgetError, CriterionError, StructureError
from reconvene.evaluator import Curve, Sensitivity
from reconvene.structure.groups import Balance, Group


@dataclass
class ChainCosts:
    """A chain: layer i has widths[i-1] * widths[i] weights, each used sizes[i] times; memory is the largest pair."""

    dense_widths: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    calls: int = 0
    dense: dict = field(default_factory=dict)

    def __post_init__(self):
        self.sizes = self.sizes or tuple(max(1, 64 >> (2 * i)) for i in range(len(self.dense_widths) + 1))
        whole = np.array(self.dense_widths)
        self.dense = {cost: self.evaluate(cost, whole) for cost in ("params", "macs", "peak_memory")}
        self.calls = 0

    def pinned(self, cost, floor):
        return None  # a chain has no part that stays

    def evaluate(self, cost, widths):
        self.calls += 1
        full = np.array([3, *widths.tolist(), 10])
        edges = full[:-1] * full[1:]
        if cost == "params":
            return int(edges.sum())
        if cost == "macs":
            return int((edges * np.array(self.sizes)).sum())
        return int((np.array(self.sizes) * (full[:-1] + full[1:])).max())


def curve(name: str, width: int, rate: float, scale: float = 1.0) -> Curve:
    """Loss of a group whose share falls as density ** rate."""
    with np.errstate(divide="ignore"):
        loss = scale * (np.log(width) - np.log(np.arange(width + 1))) / rate
    return Curve(name, width, loss, np.ones(width), 0.5, width, 0.0)


def case(widths, rates, balances=()):
    groups = tuple(Group(f"g{i}", w, ()) for i, w in enumerate(widths))
    structure = SimpleNamespace(groups=groups, prunable=groups, balances=tuple(balances))
    curves = tuple(curve(f"g{i}", w, r) for i, (w, r) in enumerate(zip(widths, rates, strict=True)))
    return structure, Sensitivity("density", "synflow", "nats", 0.1, curves), ChainCosts(tuple(widths))


def adding_up(widths, weights, balances=()):
    """The same where losses add up: ``weight * (1 / k - 1 / width)`` of each group."""
    structure, _, costs = case(widths, weights, balances)
    curves = []
    for g, (width, weight) in enumerate(zip(widths, weights, strict=True)):
        kept = np.maximum(np.arange(width + 1), 0.5)
        curves.append(Curve(f"g{g}", width, np.sqrt(weight * (1 / kept - 1 / width)), np.ones(width), 0.5, width, 0.0))
    return structure, Sensitivity("fan_in", "synflow", "root", 0.1, tuple(curves), adds_up=True), costs


def linked(*pieces: dict[int, int], fixed: tuple[int, ...] | None = None) -> Balance:
    return Balance(pieces, fixed or (0,) * len(pieces), "chunk")


def balanced(balances, widths) -> bool:
    for balance in balances:
        totals = {
            fixed + sum(n * int(widths[g]) for g, n in piece.items())
            for piece, fixed in zip(balance.pieces, balance.fixed, strict=True)
        }
        if len(totals) > 1:
            return False
    return True


def keeps(result) -> bool:
    return all(result.costs[cost] <= limit for cost, limit in result.limits.items())


def next_width(dense: int, width: int, round_to: int) -> int:
    step = step_of(dense, round_to)
    if width < step:
        return width + 1
    return min(dense, (width // step + 1) * step)


WIDTHS = st.lists(st.sampled_from([1, 2, 3, 5, 8, 12, 16, 24, 32, 48, 58, 64, 96]), min_size=1, max_size=6)
RATES = st.floats(0.1, 2.0)


@st.composite
def problems(draw):
    widths = draw(WIDTHS)
    rates = [draw(RATES) for _ in widths]
    floor = ChainCosts(tuple(widths))
    ones = np.ones(len(widths), dtype=np.int64)
    asked = {}
    costs = draw(st.lists(st.sampled_from(["params", "macs", "peak_memory"]), min_size=1, max_size=3, unique=True))
    for cost in costs:
        least, most = floor.evaluate(cost, ones), floor.dense[cost]
        asked[cost] = draw(st.integers(least, most))
    return widths, rates, asked


@settings(max_examples=150, deadline=None)
@given(problem=problems(), round_to=st.sampled_from([1, 4, 8]), kind=st.sampled_from([case, adding_up]))
def test_every_budget_is_kept_and_no_group_can_grow_one_step(problem, round_to, kind):
    widths, rates, asked = problem
    structure, sensitivity, costs = kind(widths, rates)
    result = allocate(structure, sensitivity, costs, Budget(**asked), round_to=round_to)
    assert keeps(result)
    assert np.all(result.widths >= 1) and np.all(result.widths <= widths)
    for g, dense in enumerate(widths):
        if result.widths[g] < dense:
            grown = result.widths.copy()
            grown[g] = next_width(dense, int(result.widths[g]), round_to)
            assert any(costs.evaluate(cost, grown) > limit for cost, limit in result.limits.items())


@settings(max_examples=150, deadline=None)
@given(problem=problems(), link=st.booleans(), kind=st.sampled_from([case, adding_up]))
def test_finer_steps_fill_what_multiples_leave_and_change_nothing_else(problem, link, kind):
    widths, rates, asked = problem
    balances = [linked({0: 1}, {1: 1})] if link and len(widths) > 1 and widths[0] == widths[1] else []
    structure, sensitivity, costs = kind(widths, rates, balances)
    plain = allocate(structure, sensitivity, costs, Budget(**asked))
    result = allocate(structure, sensitivity, costs, Budget(**asked), refine=True)
    used = max(plain.costs[cost] / limit for cost, limit in plain.limits.items())
    whole = list(plain.widths) == widths
    assert keeps(result) and balanced(balances, result.widths)
    assert np.all(result.widths >= plain.widths)
    if used >= 0.9 or whole:
        assert result.to_json() == plain.to_json() and not result.notes
        return
    assert result.finest < result.round_to and result.notes
    for row, before in zip(result.rows, plain.widths, strict=True):
        assert row.width == before or row.why == f"grown in steps of {result.finest} to fill the budget"
    if max(result.costs[cost] / limit for cost, limit in result.limits.items()) < 0.9:
        assert result.finest == 1  # and no group can grow by one channel alone
        for g in range(len(widths)):
            if result.widths[g] < widths[g] and not balances:
                grown = result.widths.copy()
                grown[g] += 1
                assert any(costs.evaluate(cost, grown) > limit for cost, limit in result.limits.items())


def test_a_narrow_net_fills_its_budget_and_says_how():
    structure, sensitivity, costs = adding_up([32], [1.0])
    plain = allocate(structure, sensitivity, costs, Budget(params=0.45))
    assert plain.widths.tolist() == [8] and plain.costs["params"] < 0.6 * plain.limits["params"]
    result = allocate(structure, sensitivity, costs, Budget(params=0.45), refine=True)
    assert result.widths.tolist() == [14] and result.finest == 2
    assert 0.9 * result.limits["params"] <= result.costs["params"] <= result.limits["params"]
    assert "in steps of" in str(result) and "round_to=8 keeps multiples" in str(result)


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_widths_are_multiples_where_the_group_is_wide_enough(problem):
    widths, rates, asked = problem
    structure, sensitivity, costs = case(widths, rates)
    result = allocate(structure, sensitivity, costs, Budget(**asked))
    lowest = np.array([min(w, step_of(w, 8)) for w in widths])
    roomy = all(costs.evaluate(cost, lowest) <= limit for cost, limit in result.limits.items())
    for dense, width in zip(widths, result.widths.tolist(), strict=True):
        step = step_of(dense, 8)
        assert width == dense or width % step == 0 or (not roomy and width < step)


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_no_group_is_far_above_the_water_level_and_nothing_is_lost_by_refining(problem):
    widths, rates, asked = problem
    structure, sensitivity, costs = case(widths, rates)
    plain = allocate(structure, sensitivity, costs, Budget(**asked), slack=0.0)
    refined = allocate(structure, sensitivity, costs, Budget(**asked))
    assert refined.water_level == plain.water_level
    assert all(row.loss <= plain.water_level + 1e-9 for row in plain.rows)
    assert all(row.loss <= 1.05 * plain.water_level + 1e-9 for row in refined.rows)


def brute(structure, sensitivity, costs, limits, round_to=8):
    """All allowed widths within the limits, as ``(widths, worst loss, sum of squares)``."""
    options = [allowed_widths(g.width, step_of(g.width, round_to), fine=False) for g in structure.prunable]
    for combination in itertools.product(*options):
        widths = np.array(combination)
        if balanced(structure.balances, widths) and all(costs.evaluate(c, widths) <= v for c, v in limits.items()):
            losses = [c.loss[w] for c, w in zip(sensitivity.curves, combination, strict=True)]
            yield widths, max(losses), sum(loss**2 for loss in losses)


@settings(max_examples=60, deadline=None)
@given(
    rates=st.lists(RATES, min_size=3, max_size=3),
    share=st.floats(0.15, 0.95),
    both=st.booleans(),
    link=st.sampled_from([(), ((0, 1),), ((0, 2),)]),
)
def test_the_water_level_is_the_least_worst_loss_possible(rates, share, both, link):
    balances = [linked({a: 1}, {b: 1}) for a, b in link]
    structure, sensitivity, costs = case((48, 48, 48), rates, balances)
    asked = {"params": share} | ({"macs": share} if both else {})
    budget = Budget(**asked)
    found = list(brute(structure, sensitivity, costs, budget.limits(costs.dense)))
    result = allocate(structure, sensitivity, costs, budget)
    best_worst = min(worst for _, worst, _ in found)
    assert result.water_level == pytest.approx(best_worst)
    assert balanced(structure.balances, result.widths)
    assert max(row.loss for row in result.rows) <= 1.05 * best_worst + 1e-9


def test_refinement_and_filling_find_the_least_sum_of_squares_in_most_small_cases():
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(40):
        structure, sensitivity, costs = case((64, 48, 40, 16), random.uniform(0.2, 1.5, 4))
        budget = Budget(params=float(random.uniform(0.1, 0.8)))
        found = list(brute(structure, sensitivity, costs, budget.limits(costs.dense)))
        worst = min(w for _, w, _ in found)
        best = min(total for _, w, total in found if w <= 1.05 * worst + 1e-9)
        result = allocate(structure, sensitivity, costs, budget)
        ratios.append((sum(row.loss**2 for row in result.rows) + 1e-12) / (best + 1e-12))
    assert min(ratios) > 1 - 1e-9, "brute force missed something"
    assert np.mean(np.array(ratios) < 1 + 1e-6) > 0.9 and np.mean(ratios) < 1.02


@pytest.mark.parametrize("asked", [("params",), ("macs",), ("params", "macs")], ids="+".join)
@pytest.mark.parametrize("link", [(), ((0, 2),)], ids=["free", "linked"])
def test_where_losses_add_up_their_least_sum_is_found_in_most_small_cases(asked, link):
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(25):
        balances = [linked({a: 1}, {b: 1}) for a, b in link]
        widths = (48, 40, 48, 16)
        structure, sensitivity, costs = adding_up(widths, random.uniform(0.3, 4.0, 4), balances)
        budget = Budget(**{cost: float(random.uniform(0.1, 0.8)) for cost in asked})
        found = brute(structure, sensitivity, costs, budget.limits(costs.dense))
        best = min(total for _, _, total in found)
        result = allocate(structure, sensitivity, costs, budget)
        assert balanced(balances, result.widths) and keeps(result)
        ratios.append((sum(row.loss**2 for row in result.rows) + 1e-12) / (best + 1e-12))
    assert min(ratios) > 1 - 1e-9, "brute force missed something"
    assert np.mean(np.array(ratios) < 1 + 1e-6) > 0.5 and np.mean(ratios) < 1.05


def test_where_losses_add_up_equal_prices_give_equal_widths_and_dear_channels_narrow_ones():
    """A chain under a budget on parameters is cut evenly; under MACs, early layers, used more often, are narrower."""
    structure, sensitivity, costs = adding_up((256,) * 6, (1.0,) * 6)
    even = allocate(structure, sensitivity, costs, Budget(params="16x"), round_to=1).widths
    assert even[1:-1].max() <= 1.15 * even[1:-1].min()
    steep = allocate(structure, sensitivity, costs, Budget(macs="16x"), round_to=1).widths
    assert steep[3] > steep[2] > 1.5 * max(steep[:2])


@settings(max_examples=60, deadline=None)
@given(problem=problems(), factor=st.floats(0.5, 1.0))
def test_a_tighter_budget_never_raises_the_water_level_of_the_looser(problem, factor):
    widths, rates, asked = problem
    structure, sensitivity, costs = case(widths, rates)
    loose = allocate(structure, sensitivity, costs, Budget(**asked))
    tighter = {cost: max(1, int(limit * factor)) for cost, limit in asked.items()}
    try:
        tight = allocate(structure, sensitivity, costs, Budget(**tighter))
    except BudgetError as error:
        assert any(error.floor[cost] > limit for cost, limit in tighter.items())
        return
    fine = any(row.width < step_of(row.dense, 8) for row in tight.rows)
    assert fine or tight.water_level >= loose.water_level - 1e-12
    assert all(tight.costs[cost] <= limit for cost, limit in tighter.items())


def test_uniform_curves_are_cut_alike():
    structure, sensitivity, costs = case((128,) * 6, (0.5,) * 6)
    result = allocate(structure, sensitivity, costs, Budget(params="4x"))
    assert keeps(result)
    assert np.ptp(result.widths[1:-1]) <= 8
    # The ends are cheap, having narrow neighbours, and take the room that no inner layer fits into.
    assert result.widths[[0, -1]].min() >= result.widths.min()


def test_resilient_groups_stay_whole_and_others_go_deep():
    structure, sensitivity, costs = case((64, 128, 256), (0.02, 1.0, 1.0))
    result = allocate(structure, sensitivity, costs, Budget(params="8x"))
    assert result.widths[0] == 64 and result.rows[0].why == "kept at full width: cuts lose too much"
    assert result.widths[1] < 64 and result.widths[2] < 128
    assert result.rows[1].why != "" and "resilient" not in result.rows[1].why


def test_a_budget_that_dense_keeps_leaves_everything_whole():
    structure, sensitivity, costs = case((32, 32), (0.5, 0.5))
    result = allocate(structure, sensitivity, costs, Budget(params=1.0, macs="1x"))
    assert result.widths.tolist() == [32, 32] and result.costs["params"] == costs.dense["params"]
    assert {row.why for row in result.rows} == {"kept at full width: the budget has room"}
    assert result.water_level == 0


def test_groups_a_budget_does_not_concern_are_not_cut_for_it():
    # The peak of memory is set by the first layers; the last groups cannot lower it.
    structure, sensitivity, costs = case((64, 64, 64, 64), (0.5,) * 4)
    costs.sizes = (100, 100, 1, 1, 1)
    costs.dense["peak_memory"] = costs.evaluate("peak_memory", np.array([64] * 4))
    result = allocate(structure, sensitivity, costs, Budget(peak_memory="4x"))
    assert keeps(result)
    assert result.widths[2:].tolist() == [64, 64]


def test_two_budgets_are_both_kept_and_one_of_them_filled():
    structure, sensitivity, costs = case((64, 128, 256, 512), (0.3, 0.5, 0.7, 0.9))
    result = allocate(structure, sensitivity, costs, Budget(params="10x", macs="10x"))
    assert keeps(result)
    assert max(result.costs[c] / result.limits[c] for c in result.limits) > 0.95


def test_an_impossible_budget_names_the_floor_of_every_limit():
    structure, sensitivity, costs = case((32, 64), (0.5, 0.5))
    floor = costs.evaluate("params", np.array([1, 1]))
    with pytest.raises(BudgetError) as caught:
        allocate(structure, sensitivity, costs, Budget(params=floor - 1, macs=0.5))
    text = str(caught.value)
    assert f"params {floor - 1}" in text and "cannot be kept" in text and f"floor is {floor:,}" in text
    assert "macs 0.5" in text and "can be kept" in text
    assert caught.value.floor["params"] == floor and set(caught.value.floor) == set(costs.dense)
    assert allocate(structure, sensitivity, costs, Budget(params=floor)).widths.tolist() == [1, 1]


def test_rounding_never_reaches_zero_and_tiny_groups_can_be_cut():
    assert [step_of(w, 8) for w in (1, 3, 4, 7, 8, 16, 31, 32, 512)] == [1, 1, 1, 1, 2, 4, 4, 8, 8]
    assert step_of(512, 12) == 12 and step_of(32, 12) == 6 and step_of(20, 1) == 1
    assert allowed_widths(58, 8, fine=False).tolist() == [8, 16, 24, 32, 40, 48, 56, 58]
    assert allowed_widths(58, 8, fine=True)[:9].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 16]
    assert allowed_widths(1, 1, fine=False).tolist() == [1]
    structure, sensitivity, costs = case((4, 4), (0.5, 0.5))
    assert allocate(structure, sensitivity, costs, Budget(params=0.5)).widths.sum() < 8


PAIR = [linked({0: 1}, {1: 1})]
BALANCES = [
    ((64, 64, 32), PAIR),
    ((58, 58, 96), PAIR),
    ((16, 64, 32), [linked({0: 4}, {1: 1})]),
    ((24, 40, 64), [linked({0: 1, 1: 1}, {2: 1})]),
    ((58, 58, 116), [linked({0: 1, 1: 1}, {2: 1})]),
    ((32, 64, 96), [linked({0: 1, 1: 1}, {2: 1}), linked({1: 1}, {0: 2})]),
    ((24, 32, 32, 24), [linked({0: 1, 1: 1}, {2: 1, 3: 1}), linked({1: 1}, {2: 1})]),
    ((30, 32, 40), [linked({0: 1}, {1: 1}, fixed=(2, 0))]),
    ((32, 32, 32, 32), [linked({0: 1}, {1: 1}, {2: 1}), linked({2: 1}, {3: 1})]),
    ((16, 32, 48), [linked({0: 1, 1: 2}, {0: 2, 2: 1, 1: 1}, fixed=(32, 0))]),
    ((12, 12, 12), [linked({0: 1, 1: 1}, {0: 1, 2: 1}, {1: 1, 2: 1})]),
    ((7, 21, 64), [linked({0: 3}, {1: 1})]),
]


@settings(max_examples=100, deadline=None)
@given(which=st.sampled_from(BALANCES), seed=st.integers(0, 1000), share=st.floats(0.02, 1.0))
def test_equations_hold_in_every_result(which, seed, share):
    widths, balances = which
    rates = np.random.default_rng(seed).uniform(0.2, 1.5, len(widths))
    structure, sensitivity, costs = case(widths, rates, balances)
    try:
        result = allocate(structure, sensitivity, costs, Budget(params=share))
    except BudgetError as error:
        assert error.floor["params"] > share * costs.dense["params"]
        return
    assert balanced(balances, result.widths)
    assert keeps(result) and np.all(result.widths >= 1)


@pytest.mark.parametrize(("widths", "balances"), BALANCES)
def test_ladders_climb_through_balanced_states_from_low_to_dense_without_leaps(widths, balances):
    dense = np.array(widths)
    losses = [curve("", w, 0.5).loss for w in widths]
    ways, allowed = ladders(dense, losses, simplify_equations(balances, dense), round_to=8, fine=True)
    for u, members in enumerate(ways.members):
        position = np.zeros_like(ways.top)
        previous = None
        for rung in range(ways.top[u] + 1):
            position[u] = rung
            state = ways.widths(position)
            assert all(state[g] in allowed[g] for g in members)
            if previous is not None:
                assert np.all(state >= previous) and np.any(state > previous)
            previous = state
        assert all(previous[g] == dense[g] for g in members)
    lowest = ways.widths(np.zeros_like(ways.top))
    assert balanced(balances, lowest) and lowest.sum() <= 0.5 * dense.sum()


@settings(max_examples=150, deadline=None)
@given(which=st.sampled_from(BALANCES), data=st.data())
def test_repair_only_grows_and_always_ends_balanced(which, data):
    widths, balances = which
    dense = np.array(widths)
    equations = simplify_equations(balances, dense)
    allowed = [allowed_widths(w, data.draw(st.sampled_from([1, 2, 4])), fine=True) for w in widths]
    start = np.array([data.draw(st.sampled_from(options.tolist())) for options in allowed])
    repaired = repair(start, equations, allowed, [1.0] * len(widths))
    assert balanced(balances, repaired)
    assert np.all(repaired >= start) and np.all(repaired <= dense)


@settings(max_examples=60, deadline=None)
@given(a=st.integers(1, 24), b=st.integers(1, 40), c=st.integers(1, 64))
def test_repair_of_one_equation_keeps_no_more_than_it_must(a, b, c):
    dense = np.array([24, 40, 64])
    equations = simplify_equations([linked({0: 1, 1: 1}, {2: 1})], dense)
    allowed = [np.arange(1, w + 1) for w in dense.tolist()]
    repaired = repair(np.array([a, b, c]), equations, allowed, [1.0, 2.0, 0.0])
    assert repaired.sum() == 2 * max(a + b, c)


def test_linked_groups_say_with_whom():
    structure, sensitivity, costs = case((64, 64, 64), (1.0, 0.1, 1.0), PAIR)
    result = allocate(structure, sensitivity, costs, Budget(params=0.4))
    assert result.widths[0] == result.widths[1]
    assert result.rows[0].why == "balanced with g1"


def test_dense_widths_that_break_an_equation_are_refused():
    with pytest.raises(StructureError, match="chunk"):
        simplify_equations([linked({0: 1}, {1: 1})], np.array([8, 9]))


def test_curves_of_another_structure_or_out_of_shape_are_refused():
    structure, sensitivity, costs = case((32, 32), (0.5, 0.5))
    other, _, _ = case((32, 32, 32), (0.5,) * 3)
    with pytest.raises(StructureError, match="another structure"):
        allocate(other, sensitivity, costs, Budget(params="2x"))
    sensitivity.curves[0].loss[4] = np.nan
    with pytest.raises(CriterionError, match="g0"):
        allocate(structure, sensitivity, costs, Budget(params="2x"))


def test_nothing_prunable_is_an_error():
    structure, sensitivity, costs = case((32,), (0.5,))
    empty = SimpleNamespace(groups=(), prunable=(), balances=())
    with pytest.raises(StructureError, match="nothing"):
        allocate(empty, Sensitivity("density", "synflow", "nats", 0.1, ()), costs, Budget(params="2x"))
    with pytest.raises(BudgetError, match="round_to"):
        allocate(structure, sensitivity, costs, Budget(params="2x"), round_to=0)


def test_the_same_input_gives_the_same_bytes_and_every_row_a_reason():
    structure, sensitivity, costs = case((64, 128, 256, 512), (0.3, 0.5, 0.7, 0.9), PAIR[:0])
    first = allocate(structure, sensitivity, costs, Budget(params="10x", macs="4x"))
    second = allocate(structure, sensitivity, costs, Budget(params="10x", macs="4x"))
    assert first.to_json() == second.to_json()
    parsed = json.loads(first.to_json())
    assert all(row["why"] for row in parsed["groups"])
    assert "x smaller" in str(first) and "g3" in str(first)


@pytest.mark.parametrize("count", [60, 200])
def test_cost_evaluations_stay_few(count):
    random = np.random.default_rng(1)
    widths = random.choice([64, 128, 256, 512], count)
    structure, sensitivity, costs = case(tuple(int(w) for w in widths), random.uniform(0.1, 1.5, count))
    costs.sizes = tuple(int(v) for v in random.integers(1, 1000, count + 1))
    costs.dense["macs"] = costs.evaluate("macs", widths)
    costs.calls = 0
    result = allocate(structure, sensitivity, costs, Budget(params="16x", macs="16x"))
    assert keeps(result) and costs.calls < 16_000
