"""Known failures of other pruning tools, each with its mechanism in the name (more of them in ``test_structure``)."""

from __future__ import annotations

import copy
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reconvene as rc
from reconvene.errors import BudgetError, ModelError
from reconvene.models import resolve_address
from support.proof import TOLERANCE, error, prove, unsettle

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def small_net(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )


# Widths


@pytest.mark.parametrize("width", [3, 6, 12])
@pytest.mark.parametrize("round_to", [8, 16, 64])
def test_round_to_never_floors_a_narrow_group_to_zero(width: int, round_to: int) -> None:
    model = small_net(width)
    plan = rc.plan(model, IMAGE, rc.Budget(params=0.9), "magnitude", round_to=round_to)
    assert plan.rows and all(1 <= row.width <= row.dense for row in plan.rows)
    assert plan.costs["pruned"]["params"] <= plan.limits["params"]
    plan.apply(model)(IMAGE)


def test_synflow_never_removes_a_whole_shortcut_convolution() -> None:
    """Single layers judged alone lose 1x1 shortcuts first; coupled with their block they stay as wide as the block."""
    model = resolve_address("resnet18", {"width": 0.25}, seed=0).build()
    image = torch.randn(2, 3, 32, 32)
    plan = rc.plan(model, image, rc.Budget(params="40x"), "synflow", round_to=1)
    assert plan.costs["pruned"]["params"] <= plan.limits["params"] and all(row.width >= 1 for row in plan.rows)
    small = plan.apply(model)
    shortcuts = [m for m in small.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert shortcuts and all(m.out_channels >= 1 and m.weight.numel() for m in shortcuts)
    image.requires_grad_()
    small.eval()(image).sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0


# The reference


def test_batch_norm_turns_a_zeroed_channel_into_its_bias() -> None:
    """Zeroing filters alone is no reference: what the norm adds must be silenced too."""
    model = unsettle(small_net()).double().eval()
    image = IMAGE.double()
    plan = rc.plan(model, image, rc.Budget(params=0.5), "magnitude", round_to=1)
    naive = copy.deepcopy(model)
    kept = plan.keep[plan.rows[0].name]
    removed = torch.from_numpy(np.setdiff1d(np.arange(plan.rows[0].dense), kept))
    with torch.no_grad():
        assert len(removed)
        naive[0].weight.index_fill_(0, removed, 0)
        naive[0].bias.index_fill_(0, removed, 0)
        want = plan.mask(model).eval()(image)
        assert error(plan.apply(model).eval()(image), want) < TOLERANCE
        alone = _with_only(plan, plan.rows[0].name)
        assert error(naive(image), alone.mask(model).eval()(image)) > 1e-3


def _with_only(plan: rc.Plan, name: str) -> rc.Plan:
    """The plan restricted to what the first convolution makes."""
    first = plan.slices["0.weight"][0]
    slices = {n: {0: first} for n in ("0.weight", "0.bias", "1.weight", "1.bias")} | {"3.weight": {1: first}}
    return replace(plan, slices=slices)


# State


def test_no_function_of_the_package_has_a_mutable_default() -> None:
    """State that leaks between two pruners lives in default arguments."""
    leaks = []
    for info in pkgutil.walk_packages(rc.__path__, "reconvene."):
        if info.name.endswith("__main__"):
            continue
        module = import_module(info.name)
        for owner in [module, *(c for _, c in inspect.getmembers(module, inspect.isclass))]:
            for name, function in inspect.getmembers(owner, inspect.isfunction):
                defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
                if function.__module__ == info.name and any(isinstance(d, (list, dict, set)) for d in defaults):
                    leaks.append(f"{info.name}.{name}")
    assert not leaks


def test_two_plans_do_not_leak_into_each_other() -> None:
    def planned(width: int) -> str:
        return rc.plan(small_net(width), IMAGE, rc.Budget(params="3x"), round_to=1).to_json()

    alone = planned(12)
    planned(16)
    planned(6)
    assert planned(12) == alone


def test_a_plan_applied_and_saved_twice_notes_nothing_twice(tmp_path: Path) -> None:
    """A history that is written twice replays twice."""
    model = small_net()
    plan = rc.plan(model, IMAGE, rc.Budget(params="3x"), round_to=1)
    text = plan.to_json()
    first, second = plan.apply(model), plan.apply(model)
    plan.mask(model)
    plan.save(tmp_path / "plan.json")
    plan.save(tmp_path / "plan.json")
    assert plan.to_json() == text == (tmp_path / "plan.json").read_text()
    assert repr(first) == repr(second)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    small = rc.prune(model, IMAGE, rc.Budget(params="3x"), round_to=1)
    again = rc.prune(small, IMAGE, rc.Budget(params=0.9), round_to=1)
    assert again.reconvene_plan.shapes == {n: list(t.shape) for n, t in small.state_dict().items()}


def _measure(model: nn.Module) -> Any:
    return rc.measure(model, IMAGE, latency=False)


def _rectify(model: nn.Module) -> Any:
    plan = rc.plan(model, IMAGE, rc.Budget(params="2x"), round_to=1)
    return rc.rectify(plan.apply(model), plan, IMAGE)


def _impossible(model: nn.Module) -> Any:
    with pytest.raises(BudgetError):
        rc.plan(model, IMAGE, rc.Budget(params="10000x"))


def _wrong_input(model: nn.Module) -> Any:
    with pytest.raises(ModelError):
        rc.plan(model, torch.zeros(2, 5, 8, 8), rc.Budget(params="2x"))


@pytest.mark.parametrize(
    "use",
    [
        lambda model: rc.groups(model, IMAGE),
        lambda model: rc.sensitivity(model, IMAGE),
        lambda model: rc.plan(model, IMAGE, rc.Budget(params="2x")),
        lambda model: rc.plan(model, IMAGE, rc.Budget(params="2x"), "snip", [(IMAGE, torch.tensor([0, 1]))]),
        lambda model: rc.plan(model, IMAGE, rc.Budget(params="2x"), "grasp", [(IMAGE, torch.tensor([0, 1]))]),
        lambda model: rc.prune(model, IMAGE, rc.Budget(params="2x")),
        _measure,
        _rectify,
        _impossible,
        _wrong_input,
    ],
    ids=["groups", "sensitivity", "plan", "snip", "grasp", "prune", "measure", "rectify", "impossible", "wrong input"],
)
def test_the_model_is_not_left_in_eval_mode(use: Callable[[nn.Module], Any]) -> None:
    """Mode is kept layer by layer, also when the call fails: a user may have frozen some norms."""
    model = small_net().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    use(model)
    assert [module.training for module in model] == [i != 1 for i in range(9)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


# Mechanisms


def test_a_grayscale_stem_with_one_input_channel_is_not_depthwise() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 2))
    structure, _, small = prove(model, torch.randn(2, 1, 8, 8))
    assert len(structure.prunable) == 2 and small[0].groups == 1 and small[0].weight.shape == (4, 1, 3, 3)


class JoinedWithItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.norm, self.head = nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.norm(torch.cat([x, x], 1)))


def test_a_tensor_joined_with_itself_leaves_from_both_places() -> None:
    structure, _, small = prove(JoinedWithItself(), IMAGE)
    assert [g.width for g in structure.prunable] == [8] and small.head.in_channels == 8


class WideAndDeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        self.wide, self.last = nn.Linear(6, 4), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.concat([self.wide(x), self.deep(x)], -1))


def test_branches_joined_are_groups_of_their_own_even_one_channel_wide() -> None:
    structure, _, small = prove(WideAndDeep(), torch.randn(4, 6))
    assert {g.name: g.width for g in structure.prunable} == {"deep.0": 8, "wide": 4}  # one channel cannot leave
    assert small.last.in_features == 3


class GeneratorStem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8 * 4)
        self.up = nn.ConvTranspose2d(8, 6, 4, 2, 1)
        self.head = nn.ConvTranspose2d(6, 2, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.linear(x)).view(-1, self.up.in_channels, 2, 2)
        return self.head(F.relu(self.up(x)))


def test_a_linear_layer_viewed_as_an_image_loses_whole_channels() -> None:
    _, _, small = prove(GeneratorStem(), torch.randn(3, 6))
    assert small.linear.out_features == 16 and small.up.in_channels == 4 and small.up.out_channels == 3


class SplitByAttributes(nn.Module):
    """Pieces whose sizes are those of the layers behind them; one of these layers reads two pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16))
        self.one, self.two = nn.Conv2d(4, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        sizes = [self.one.in_channels, self.one.in_channels, self.two.in_channels]
        first, second, third = self.body(x).split(sizes, 1)
        return self.one(first), self.one(second), self.two(third)


def test_pieces_of_unequal_size_prune_or_stay_but_never_mix() -> None:
    prove(SplitByAttributes(), IMAGE)


class UnequalChunks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 1)
        self.heads = nn.ModuleList(nn.Conv2d(n, 2, 1) for n in (3, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.body(x).chunk(3, 1)
        return torch.cat([head(piece) for head, piece in zip(self.heads, pieces, strict=True)], 1)


def test_a_chunk_with_a_shorter_rest_stays_right() -> None:
    prove(UnequalChunks(), IMAGE)


class ChannelsLastFlatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm1d(6 * 36)
        self.head = nn.Linear(6 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x).permute(0, 2, 3, 1).flatten(1)))


def test_flatten_after_a_permutation_strides_through_the_columns() -> None:
    _, _, small = prove(ChannelsLastFlatten(), IMAGE)
    assert small.head.in_features == 3 * 36 == small.norm.num_features


class NormOverJoined(nn.Module):
    """Groups of a group norm that straddle the border between the joined parts."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 10, 1)
        self.norm, self.head = nn.GroupNorm(4, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.left(x), self.right(x)], 1)))


def test_a_group_norm_over_joined_parts_keeps_its_statistics_right() -> None:
    prove(NormOverJoined(), IMAGE)
