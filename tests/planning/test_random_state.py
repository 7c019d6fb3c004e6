"""Data that draw: the caller's random state is as before afterwards, and one seed gives one result whatever it was."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import reconvene as rc

X, Y = torch.randn(96, 3, 6, 6, generator=torch.Generator().manual_seed(3)), torch.arange(96) % 5
BITS: dict[str, Any] = {"trained": True, "bits": (0, 2, 4, 8)}


class Augmented(Dataset[Any]):
    """Examples that draw from PyTorch, NumPy and Python when they are read."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = float(np.random.rand()) + random.random() + torch.rand(())
        return X[index] + 0.1 * noise, Y[index]


def loader() -> DataLoader[Any]:
    return DataLoader(Augmented(), batch_size=32, shuffle=True)


def network() -> nn.Module:
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12, 5)).eval()


def rectified(model: nn.Module, data: Any) -> nn.Module:
    plan = rc.plan(model, X[:1], rc.Budget(params="2x"), trained=True)
    small = plan.apply(model)
    rc.rectify(small, plan, X[:1], how="reconstruct", model=model, data=data)
    return small


CALLS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "plan": lambda m, d: rc.plan(m, X[:1], rc.Budget(params="2x"), trained=True, data=d),
    "plan of bits": lambda m, d: rc.plan(m, X[:1], rc.Budget(size="5x"), data=d, **BITS),
    "prune": lambda m, d: rc.prune(m, X[:1], rc.Budget(params="2x"), trained=True, data=d),
    "prune to bits": lambda m, d: rc.prune(m, X[:1], rc.Budget(size="5x"), data=d, **BITS),
    "search": lambda m, d: rc.search(m, X[:1], rc.Budget(size="5x"), train=d, epochs=2),
    "rectify": rectified,
    "replace": lambda m, d: rc.replace(m, X[:1], allow=["relu6"], data=d),
    "sensitivity": lambda m, d: rc.sensitivity(m, X[:1], criterion="taylor", data=d),
    "steps": lambda m, d: rc.prune_iteratively(m, X[:1], rc.Budget(params="2x"), steps=2, data=d),
    "regrow": lambda m, d: rc.prune_and_regrow(m, X[:1], rc.Budget(params="2x"), train=d),
}


def states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def digest(result: Any) -> str:
    plan = getattr(result, "reconvene_plan", result)
    parts = [str({**plan.to_dict(), "timings": 0}) if hasattr(plan, "to_dict") else str(plan)]
    parts += [str(t.tolist()) for t in result.state_dict().values()] if isinstance(result, nn.Module) else []
    parts += [str(getattr(plan, "calibration", None))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


@pytest.mark.parametrize("kind", ["loader", "iterator"])
@pytest.mark.parametrize("name", CALLS)
def test_one_seed_gives_one_result_and_the_random_state_is_as_before(name: str, kind: str) -> None:
    model = network()
    results = []
    for ambient in (1, 2):
        seed_all(ambient)
        data = loader() if kind == "loader" else once(loader())
        before = states()
        results.append(digest(CALLS[name](model, data)))
        assert states() == before, name
    assert results[0] == results[1], name


def once(data: Any) -> Iterator[Any]:
    """The batches as a generator gives them."""
    yield from data


def test_a_file_does_not_follow_the_random_state(tmp_path: Path) -> None:
    small = rc.prune(network(), X[:1], rc.Budget(size="5x"), data=loader(), **BITS)
    files = []
    for ambient in (1, 2):
        seed_all(ambient)
        before = states()
        options: dict[str, Any] = {"quantize": "plan", "example_inputs": X[:1], "task": "regression"}
        made = rc.export(small, tmp_path / str(ambient), calibration=loader(), **options)
        assert states() == before
        files.append(made.path.read_bytes())
    assert files[0] == files[1]
