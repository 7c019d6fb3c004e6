"""Forward passes that read values are recorded on meta with the answers of a run on real tensors, and proved alike."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reconvene as rc
from reconvene.errors import ModelError
from reconvene.structure import analyse
from support.proof import prove

Read = Callable[[Tensor], Any]
READS: dict[str, Read] = {
    "any": lambda x: bool(x.isnan().any()),
    "item": lambda x: x.sum().item(),
    "int": lambda x: int(x.abs().max()),
    "format": lambda x: f"{x.mean():.3f}",
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "nonzero": lambda x: (x > 0).nonzero().shape[0],
    "boolean mask": lambda x: x[x > 0].numel(),
    "masked select": lambda x: x.masked_select(x > 0).numel(),
    "unique": lambda x: torch.unique(x).numel(),
    "list": lambda x: x[0].tolist(),
    "number to list": lambda x: x.sum().tolist(),
    "numpy": lambda x: x.detach().cpu().numpy().sum(),
    "array": lambda x: np.asarray(x).sum(),
    "index of the largest": lambda x: x.argmax().item(),
    "where": lambda x: torch.where(x > 0)[0].numel(),
}
FOLLOWS: dict[str, Callable[[Tensor], Tensor]] = {
    "a slice": lambda h: h + h[:, -8:].sum(1, keepdim=True),
    "a view": lambda h: h.view(-1, 4, 8).mean(2),
    "a branch on a width": lambda h: h.relu() if h.shape[1] > 24 else h.tanh(),
    "a number made of a width": lambda h: h / math.sqrt(h.shape[1]),
    "groups made of a width": lambda h: F.group_norm(h, h.shape[1] // 8),
}


class Reads(nn.Module):
    """Reads a value of its input, or of what a layer computed, and goes on with a function of the channels."""

    def __init__(self, read: Read, follow: Callable[[Tensor], Tensor], *, late: bool) -> None:
        super().__init__()
        self.read, self.follow, self.late = read, follow, late
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, 32)
        with torch.no_grad():
            self.o = nn.Linear(follow(torch.zeros(2, 32)).shape[1], 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        self.read(h if self.late else x)
        return self.o(self.follow(self.b(h)))


@pytest.mark.parametrize("late", [False, True], ids=["of the input", "of features"])
@pytest.mark.parametrize("name", READS)
def test_what_is_read_is_answered_and_everything_else_is_compared(name: str, late: bool) -> None:
    torch.manual_seed(0)
    structure, _, _ = prove(Reads(READS[name], torch.relu, late=late), torch.randn(2, 12))
    assert structure.recording.device == "meta"
    assert structure.prunable and any("reads values" in note for note in structure.repairs)


@pytest.mark.parametrize("name", FOLLOWS)
@pytest.mark.parametrize("checked", [True, False], ids=["with a check", "without"])
def test_a_check_on_values_hides_nothing(name: str, checked: bool) -> None:
    torch.manual_seed(0)
    model = Reads(READS["any"] if checked else lambda _: None, FOLLOWS[name], late=False)
    inputs = torch.randn(2, 12)
    structure, _, _ = prove(model, inputs)
    bare = analyse(Reads(lambda _: None, FOLLOWS[name], late=False), inputs)
    assert [(g.name, g.width) for g in structure.prunable] == [(g.name, g.width) for g in bare.prunable]


def test_what_leaves_pytorch_stays_whole() -> None:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.o(self.b(h) + torch.from_numpy(h.detach().numpy() * 2))

    structure, _, _ = prove(Outside(), torch.randn(2, 12), prunable=False)
    assert not structure.prunable
    assert any("numpy in the model itself reads values out of PyTorch" in str(g.pinned) for g in structure.groups)


def test_an_auxiliary_head_behind_a_check_is_seen() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.h, self.side = nn.Linear(12, 32), nn.Linear(32, 5), nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Any:
            h = self.a(x).relu()
            assert torch.isfinite(h).all()
            return (self.h(h), self.side(h)) if self.training else self.h(h)

    structure, _, small = prove(Auxiliary(), torch.randn(4, 12))
    assert small.side.in_features == 16 and "never read" not in str(structure.groups)


def test_a_tensor_that_meta_has_written_to_has_no_values_of_its_own() -> None:
    class Flags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.o = (nn.Linear(*size) for size in ((12, 32), (32, 32), (32, 32), (32, 5)))

        def forward(self, x: Tensor) -> Tensor:
            h, flags = self.a(x), torch.zeros(2)
            flags[0] = (h * 0 + 1).sum()
            return self.o(self.b(h) if flags.any() else self.c(h).softmax(1))  # zeros would take the other branch

    structure, _, _ = prove(Flags(), torch.randn(2, 12))
    assert {g.name for g in structure.prunable} == {"a", "b"}


def test_where_meta_has_no_answer_real_tensors_are_recorded_and_compared_alike() -> None:
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Linear(12, 16), nn.Linear(16, 32), nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = self.b(self.a(x).relu())
            classes = F.one_hot(self.o(h).argmax(-1)).sum()  # PyTorch reads how many there are in the kernel itself
            return self.o((h + h[:, -8:].sum(1, keepdim=True)) / math.sqrt(h.shape[1])) * classes

    torch.manual_seed(0)
    structure, _, _ = prove(Classes(), torch.randn(2, 12))
    assert structure.recording.device == "real"
    # What is sliced by a plain number cannot follow: the view of it is compared on real tensors, too.
    assert [g.name for g in structure.prunable] == ["a"] and "slice in the model itself" in str(structure.repairs)


def test_a_model_on_meta_that_reads_values_says_so() -> None:
    with torch.device("meta"):
        model = Reads(READS["any"], torch.relu, late=True)
    with pytest.raises(ModelError, match="does not run on the example inputs"):
        analyse(model, torch.randn(2, 12, device="meta"))


def test_sizes_compare_with_tensors_that_hold_them() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Linear(8, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor, n: Tensor) -> Tensor:
            y = self.a(x).relu()
            assert y.shape[1] == n.max() and n.max() == y.shape[1]
            return self.o(y)

    structure, _, _ = prove(Counted(), (torch.randn(2, 5, 8), torch.tensor([3, 5])))
    assert [g.width for g in structure.prunable] == [32]


def test_the_random_state_of_numpy_and_python_stays() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Linear(8, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.a(x) * (1 + 0 * random.random() + 0 * np.random.rand()) + 0 * torch.rand(1))

    model, inputs = Draws(), torch.randn(2, 8)
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    rc.plan(model, inputs, rc.Budget(params="2x"), "magnitude")
    assert random.getstate() == before[0] and str(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
