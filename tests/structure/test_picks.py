"""Rules for calls that choose positions by number or by value: channels that merely pass can go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from support.proof import prove


class Picking(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.function = nn.Conv2d(3, 8, 1), nn.Linear(8, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.stem(x).flatten(2).transpose(1, 2)))


def _put(x: Tensor) -> Tensor:
    out = x.new_zeros(x.shape[0], 20, x.shape[2])
    out[:, torch.tensor([3, 5, 7])] = x[:, :3]
    out[0, torch.tensor([1, 2])] = x[0, :2]
    return out


def _boxes(x: Tensor) -> Tensor:
    ops = pytest.importorskip("torchvision").ops
    boxes = torch.tensor([[0.0, 0, 0, 3, 3], [1, 1, 1, 2, 3]], dtype=x.dtype)
    return ops.roi_align(x.transpose(1, 2).unflatten(-1, (4, 4)), boxes, (2, 2)).flatten(2).transpose(1, 2)


def _masked(x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    mask[0, 3:9] = False
    out = x.clone()
    out[mask] = out[mask] * 2
    return out[~mask].unsqueeze(0) + out.mean(1, keepdim=True)


PICKS: dict[str, Callable[[Tensor], Tensor]] = {
    "index_put": _put,
    "roi_align": _boxes,
    "mask of two dimensions": _masked,
    "mask of two dimensions, reduced behind": lambda x: x[torch.ones(2, 16, dtype=torch.bool), :].unsqueeze(0),
    "mask and number": lambda x: x[torch.tensor([True, False]), 3].unsqueeze(1) + x,
    "apart": lambda x: x.unsqueeze(2)[torch.tensor([1, 0]), :, torch.tensor([0, 0])],
    "mask without dimensions": lambda x: x[torch.tensor(True)][0],
    "index of two dimensions": lambda x: x[:, torch.tensor([[0, 1], [2, 3]])].flatten(1, 2),
    "index_put of a row": lambda x: x.index_put((torch.tensor([1]),), x[0, 0]),
    "index_put behind a kept dimension": lambda x: torch.ops.aten.index_put(x, [None, torch.tensor([1])], x[:1, :1]),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([0, 4]), 0.5),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([0, 4]), x[:, 5:7]),
    "index_add": lambda x: x.index_add(1, torch.tensor([0, 4]), x[:, 5:7], alpha=2),
    "scatter": lambda x: x.scatter(1, torch.ones(2, 3, x.shape[2], dtype=torch.long), 0.5),
    "scatter_add": lambda x: x.scatter_add(1, torch.arange(16).view(1, 16, 1).expand_as(x) // 2, x * x),
}


@pytest.mark.parametrize("name", PICKS)
def test_channels_pass(name: str) -> None:
    for ratio, seed in ((0.5, 0), (0.25, 1)):
        structure, _, _ = prove(Picking(PICKS[name]), torch.randn(2, 3, 4, 4), ratio=ratio, seed=seed)
    assert len(structure.prunable) == 1 and not structure.unknown
    assert not [note for note in structure.repairs if "reads values" not in note]  # as masks do


def test_what_is_chosen_by_value_is_kept_with_a_reason() -> None:
    model = Picking(lambda x: x[:, : 1 + int((x.mean(1).abs() > 1e9).nonzero().shape[0])])
    structure, _, _ = prove(model, torch.randn(2, 3, 4, 4), prunable=False)
    assert not structure.prunable and not structure.unknown
    assert any("chooses positions by value" in (group.pinned or "") for group in structure.groups)


def test_a_mask_over_channels_keeps_them() -> None:
    model = Picking(lambda x: x * x[x[:, :1].expand_as(x) > -1e9].mean())
    structure, _, _ = prove(model, torch.randn(2, 3, 4, 4), prunable=False)
    assert not structure.prunable and not structure.unknown
    assert any("index" in (group.pinned or "") for group in structure.groups)
