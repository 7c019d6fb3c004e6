"""Components by runs name every atom as components atom by atom do; copies by attributes are those of ``deepcopy``."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from reconvene.structure.components import components, merge
from reconvene.structure.copies import deep_copy
from reconvene.structure.labels import Vector
from reconvene.utils.module_tree import named_modules, set_mode


def vector(random: np.random.Generator, count: int, size: int) -> Vector:
    """Mostly a run of atoms, else two runs, zeros or atoms in no order."""
    start = int(random.integers(0, count - size + 1))
    run = np.arange(start, start + size)
    kind = random.random()
    if kind < 0.8:
        return run
    if kind < 0.9:
        return np.concatenate([run[size // 2 :], run[: size // 2]])
    return np.zeros(size, dtype=np.int64) if kind < 0.95 else random.integers(0, count, size)


def test_runs_and_atoms_agree() -> None:
    for seed in range(200):
        random = np.random.default_rng(seed)
        count = int(random.integers(8, 400))
        sizes = random.integers(1, count // 3 + 1, size=8)
        unions = [(vector(random, count, n), vector(random, count, n)) for n in sizes[: random.integers(0, 7)]]
        pins = [vector(random, count, n) for n in sizes[6 : 6 + random.integers(0, 3)]]
        expected = merge(np.arange(count), unions, pins)
        np.testing.assert_array_equal(components(count, unions, pins), expected, err_msg=f"seed {seed}")


class Tied(nn.Module):
    """Modules, tables and tensors that stand in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 1)
        self.inner = nn.Sequential(nn.BatchNorm2d(2), self.first, nn.LSTM(2, 2))
        self.again = [self.first.weight, self.inner[0]]
        self.table: dict[str, int] = {}
        self.same_table = self.table


def test_copy_keeps_what_is_shared() -> None:
    model = Tied()
    small, expected = deep_copy(model, {}), copy.deepcopy(model)
    assert [(name, type(m)) for name, m in small.named_modules()] == [(n, type(m)) for n, m in expected.named_modules()]
    for (name, ours), (other, theirs) in zip(small.state_dict().items(), expected.state_dict().items(), strict=True):
        assert name == other and torch.equal(ours, theirs)
    assert small.inner[1] is small.first and small.again[0] is small.first.weight and small.again[1] is small.inner[0]
    assert small.table is small.same_table and small.table is not model.table
    assert small.first.weight is not model.first.weight
    assert [vars(m).keys() for m in small.modules()] == [vars(m).keys() for m in expected.modules()]


def test_modules_are_those_of_the_model() -> None:
    model = Tied()
    assert named_modules(model) == list(model.named_modules())
    set_mode(model, training=False)
    assert not any(module.training for module in model.modules())


def test_a_module_hears_of_its_mode() -> None:
    class Table(nn.Module):
        heard: tuple[bool, ...] = ()

        def train(self, mode: bool = True) -> Table:
            self.heard = (*self.heard, mode)
            return super().train(mode)

    model = nn.Sequential(Table(), nn.ReLU())
    set_mode(model, training=False)
    assert model[0].heard == (True, False) and not model[1].training
