"""Plans made at the same time by several threads are those made one after the other, and models stay as they were."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

import reconvene as rc

INPUTS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CRITERIA = (None, "magnitude", "synflow")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    width = 16 + 8 * (seed % 3)
    layers = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2 * width, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def plan(model: nn.Module, seed: int) -> str:
    return rc.plan(model, INPUTS, rc.Budget(params="3x"), CRITERIA[seed % 3], seed=seed).to_json()


def test_fifty_plans_at_once_are_those_made_one_by_one() -> None:
    models = [network(seed) for seed in range(10)]
    tasks = [(models[number % 10], number) for number in range(50)]  # five plans of every model at the same time
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda task: plan(*task), tasks))
    assert together == [plan(*task) for task in tasks]
    for seed, model in enumerate(models):
        fresh = network(seed).state_dict()
        assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())
        assert model.training and not any(tensor.is_meta for tensor in model.state_dict().values())


def test_a_thread_that_trains_meets_nothing_of_a_plan() -> None:
    stop, troubles, kinds = threading.Event(), [], set()
    model = network(99)  # not in the thread: building draws from the generator that all threads share

    def train() -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        while not stop.is_set():
            try:
                loss = model(INPUTS).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                kinds.add(type(loss.shape if loss.ndim else INPUTS.shape[0]))
            except Exception as error:  # noqa: BLE001 -- whatever goes wrong in the other thread is what is asked
                troubles.append(error)
                return

    worker = threading.Thread(target=train)
    worker.start()
    try:
        plans = [plan(network(seed), seed) for seed in range(6)]
    finally:
        stop.set()
        worker.join()
    assert not troubles and kinds == {int}
    assert plans == [plan(network(seed), seed) for seed in range(6)]
