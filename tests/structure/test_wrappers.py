"""Networks in wrappers of PyTorch's own, and forward passes that hold things which are neither tensors nor numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc

INPUTS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small() -> nn.Module:
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    return nn.Sequential(*layers).eval()


class Recorded(nn.Module):
    """Marks a part of its forward pass for a profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> Tensor:
        with torch.profiler.record_function("net"):
            out: Tensor = self.net(x)
        return out


@pytest.fixture
def process_group() -> Iterator[None]:
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS: dict[str, Callable[[], nn.Module]] = {
    "profiler": Recorded,
    "DataParallel": lambda: nn.DataParallel(small()),
    "DistributedDataParallel": lambda: nn.parallel.DistributedDataParallel(small()),
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("criterion", [None, "synflow", "magnitude"])
def test_a_wrapped_network_is_planned_as_it_is(name: str, criterion: str | None) -> None:
    model = WRAPPERS[name]()
    plan = rc.plan(model, INPUTS, rc.Budget(params="2x"), criterion)
    assert [row.dense for row in plan.rows] == [16] and plan.rows[0].width < 16
    with torch.no_grad():
        small_net, silenced = plan.apply(model).eval(), plan.mask(model).eval()
        assert torch.allclose(small_net(INPUTS), silenced(INPUTS), atol=1e-6)
