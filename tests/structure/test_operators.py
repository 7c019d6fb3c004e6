"""Every operator that PyTorch tests, with the arguments it is tested with: a rule reads it, or pins it and names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reconvene.errors import ModelError
from reconvene.structure.analysis import assemble, label
from reconvene.structure.capture import record_forward
from reconvene.structure.labels import dimension_size
from reconvene.structure.recording import Recording

SAMPLES = 2
"""Argument lists per operator, from both ends: numbers without dimensions, negative and missing arguments."""


class Calls(nn.Module):
    """One call whose float tensors are parameters, each passed through a product first."""

    def __init__(self, function: Any, sample: Any) -> None:
        super().__init__()
        self.function = function
        self.values, self.spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        self.names = [f"p{n}" if _learnt(value) else "" for n, value in enumerate(self.values)]
        for name, value in zip(self.names, self.values, strict=True):
            if name:
                self.register_parameter(name, nn.Parameter(value.detach().clone()))

    def forward(self, x: Tensor) -> Any:
        values = [getattr(self, n) * x if n else v for n, v in zip(self.names, self.values, strict=True)]
        first, args, kwargs = pytree.tree_unflatten(values, self.spec)
        return self.function(first, *args, **kwargs)


def _learnt(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _recordings() -> Iterator[tuple[str, Recording]]:
    methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    for info in methods.op_db:
        try:
            torch.manual_seed(0)
            samples = list(info.sample_inputs("cpu", torch.float32, requires_grad=False))
        except Exception:  # noqa: BLE001 - operators of other devices and types
            continue
        for number, sample in enumerate(samples[:SAMPLES] + samples[-SAMPLES:]):
            try:
                model = Calls(info.op, sample).eval()
                model(torch.ones(()))
            except Exception:  # noqa: BLE001 - no call that runs alone on this machine
                continue
            try:
                yield f"{info.name} {number}", record_forward(model, torch.ones(()))
            except ModelError:
                continue


def _check(recordings: Iterator[tuple[str, Recording]]) -> int:
    """Hold every rule against what its calls gave; returns how many operators were met."""
    wrong, seen = [], set()
    for name, recording in recordings:
        context = label(recording)
        assemble(recording, context)
        wrong += [f"{name}: {site}" for site in context.unknown if "whose rule fails" in site]
        for op in recording.ops:
            seen.add(op.name)
            for out in op.outs:
                shape = [] if out is None else [dimension_size(dim) for dim in context.dims(out)]
                if out is not None and out.numel() and shape != list(out.shape):
                    wrong.append(f"{name}: {op.name} gives {tuple(out.shape)}, its rule {tuple(shape)}")
    assert not wrong
    return len(seen)


NUMBERS: dict[str, Callable[[Tensor], Any]] = {
    "softmax": lambda x: x.mean().softmax(0),
    "cumsum": lambda x: x.mean().cumsum(-1),
    "topk": lambda x: x.mean().topk(1).values,
    "sort": lambda x: x.mean().sort(0).values,
    "flip": lambda x: x.mean().flip(()),
    "sum": lambda x: x.mean().sum(-1),
    "max": lambda x: x.mean().max(0).values,
    "norm": lambda x: torch.linalg.vector_norm(x.mean(), dim=0),
    "gather": lambda x: x.mean().gather(0, torch.tensor(0)),
    "gather of one": lambda x: x.mean((0, 1)).gather(0, torch.tensor(0)),
    "index_select": lambda x: x.mean().index_select(0, torch.tensor([0])),
    "index_fill": lambda x: x.mean().index_fill(0, torch.tensor([0]), 2.0),
    "index_add": lambda x: x.mean().index_add(0, torch.tensor([0]), x.sum()),
    "scatter_add": lambda x: x.mean().scatter_add(0, torch.tensor(0), x.sum()),
    "unfold": lambda x: x.mean().unfold(0, 1, 1),
    "squeeze of nothing": lambda x: x.sum((0, 1), keepdim=True).squeeze(()),
    "nansum": lambda x: x.nansum(1),
    "count_nonzero": lambda x: x.count_nonzero(1),
    "unsqueeze in place": lambda x: (x * 2).unsqueeze_(0),
    "transpose in place": lambda x: (x * 2).transpose_(0, 1),
    "masked_scatter": lambda x: x.masked_scatter(x > 0, x.flip(0)),
    "histogram": lambda x: x.histc(4),
}
"""Calls on numbers without dimensions, without the dimension that others of the name take, and in place."""


@pytest.mark.parametrize("name", NUMBERS)
def test_rules_read_unusual_arguments(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Any:
            return NUMBERS[name](self.stem(x))

    _check(iter([(name, record_forward(Net(), torch.randn(5, 4)))]))


@pytest.mark.slow
def test_no_rule_fails_and_each_gives_the_shape_that_the_call_gives() -> None:
    assert _check(_recordings()) > 300
