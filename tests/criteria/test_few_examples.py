"""Single examples of a plan of bits come from all of the data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from reconvene.criteria.few_examples import few_single_examples

Batch = tuple[Tensor, Tensor]
OPTIONS = {"user": "a test", "device": torch.device("cpu"), "seed": 0, "names": ()}


def batches(targets: Tensor) -> list[Batch]:
    return list(zip(torch.arange(float(len(targets)))[:, None].split(16), targets.split(16), strict=True))


@pytest.mark.parametrize("order", ["sorted", "in turn"])
@pytest.mark.parametrize("as_loader", [False, True])
def test_they_are_of_every_class_whatever_the_order(order: str, as_loader: bool) -> None:
    """The first 64 of sorted data are of one class."""
    number = torch.arange(1600)
    targets = number // 160 if order == "sorted" else number % 10
    data = DataLoader(TensorDataset(number[:, None].float(), targets), batch_size=16) if as_loader else batches(targets)
    found = few_single_examples(data, 64, **OPTIONS)
    assert len(found) == 64 and all(x.shape == (1, 1) and y.shape == (1,) for x, y in found)
    assert all(targets[int(x)] == int(y) for x, y in found), "an example keeps its own target"
    assert torch.cat([y for _, y in found]).bincount(minlength=10).min() >= 2
    again = few_single_examples(data, 64, **OPTIONS)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(found, again, strict=True))


def test_few_data_are_read_whole_and_endless_data_to_the_first() -> None:
    targets = torch.arange(40) % 10
    assert [int(x) for x, _ in few_single_examples(batches(targets), 64, **OPTIONS)] == list(range(40))

    def endless() -> Iterator[Batch]:
        while True:
            yield from batches(targets)

    class Endless:
        def __iter__(self) -> Iterator[Batch]:
            return endless()

    assert [int(x) for x, _ in few_single_examples(Endless(), 50, **OPTIONS)] == [*range(40), *range(10)]


def test_an_example_does_not_hold_its_batch() -> None:
    (x, _), *_ = few_single_examples(batches(torch.zeros(1600, dtype=torch.long)), 4, **OPTIONS)
    assert x.untyped_storage().nbytes() == x.element_size()
