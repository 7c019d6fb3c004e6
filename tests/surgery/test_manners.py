"""What a pruned model must still be to the rest of PyTorch, and what must survive on the user's own model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import reconvene as rc
from reconvene.structure import analyse
from reconvene.structure.patches import patched
from support.proof import prove

INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 16, 4)
    )


def pruned(dense: nn.Module, inputs: Tensor = INPUTS) -> nn.Module:
    return rc.prune(dense, inputs, rc.Budget(params="4x"), criterion="magnitude")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_type_of_the_weights_stays(dtype: torch.dtype) -> None:
    small = pruned(model().to(dtype), INPUTS.to(dtype))
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert small.eval()(INPUTS.to(dtype)).isfinite().all()


def test_a_model_without_storage_is_analysed_without_allocating() -> None:
    with torch.device("meta"):
        large = nn.Sequential(nn.Linear(4096, 65536), nn.ReLU(), nn.Linear(65536, 4096))
    structure = analyse(large, torch.empty(1, 4096, device="meta"))
    assert [g.width for g in structure.prunable] == [65536]


def test_state_dict_deepcopy_and_compile() -> None:
    small = pruned(model()).eval()
    twin = copy.deepcopy(small)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(small.state_dict())
    expected = small(INPUTS)
    torch.testing.assert_close(twin(INPUTS), expected)
    torch.testing.assert_close(torch.compile(small, backend="aot_eager", fullgraph=True)(INPUTS), expected)


def test_distributed_data_parallel_trains_it(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(pruned(model()))
        parallel(INPUTS).sum().backward()
        assert all(p.grad is not None for p in parallel.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_hooks_survive_on_both() -> None:
    dense = model()
    seen: list[tuple[int, ...]] = []
    dense[0].register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape)))
    small = pruned(dense)
    seen.clear()
    dense(INPUTS)
    small(INPUTS)
    assert len(seen) == 2 and seen[0][1] == 32 and seen[1][1] == small[0].out_channels < 32


def _weight_norm(layer: nn.Module) -> nn.Module:
    return parametrizations.weight_norm(layer)


def _old_weight_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize("wrap", [_weight_norm, _old_weight_norm])
def test_weight_norm_is_pruned_and_survives(wrap: Any) -> None:
    dense = nn.Sequential(wrap(nn.Conv2d(3, 16, 3)), nn.ReLU(), wrap(nn.Conv2d(16, 4, 3)))
    structure, _, small = prove(dense, INPUTS)
    assert [g.width for g in structure.prunable] == [16]
    assert small(INPUTS.double()).shape == (2, 4, 4, 4)
    dense(INPUTS.double()).sum().backward()  # nothing on meta was left behind


class Cache(nn.Module):
    """Keeps tables it made in a forward pass, as an attribute and in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 2)
        self.table: Tensor | None = None
        self.tables: dict[int, Tensor] = {}
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.table is None:
            self.table = torch.linspace(0, 1, x.shape[1], device=x.device)
        self.tables.setdefault(x.shape[0], torch.ones(x.shape[0], 1, device=x.device))
        return self.head(self.body(x + self.table) * self.tables[x.shape[0]])


def test_what_a_forward_pass_caches_is_not_left_behind() -> None:
    dense = Cache()
    structure = analyse(dense, torch.randn(3, 8))
    assert [g.width for g in structure.prunable] == [16]
    assert dense.table is None and dense.tables == {} and dense.calls == 0 and type(dense.calls) is int
    dense(torch.randn(3, 8))
    prove(dense, torch.randn(3, 8))


class LooksAtPositions(nn.Module):
    """Makes positions and a mask on the device of its input, and lets their values decide, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.body, self.head = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        position = torch.arange(x.shape[1], device=x.device)
        seen = position[None, :] <= position[:, None]
        if bool(seen.all()) or int(position.max()) >= 8:
            raise ValueError("too long")
        hidden = self.body(x + self.places(position)).relu()
        return self.head(hidden * seen.to(hidden.dtype).sum(-1, keepdim=True))


def test_a_model_built_on_meta_may_look_at_the_positions_and_masks_it_makes() -> None:
    with torch.device("meta"):
        large = LooksAtPositions()
    ids = torch.arange(5)[None]
    structure = analyse(large, ids)
    assert structure.recording.device == "meta" and not structure.repairs and not structure.unknown
    assert structure.widths.tolist() == analyse(LooksAtPositions(), ids).widths.tolist() == [16, 32]


class NotesItsInput(nn.Module):
    """Remembers how large its input was, and computes otherwise from then on, as windowed attention may."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.small = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4), False

    def forward(self, x: Tensor) -> Tensor:
        self.small = self.small or x.shape[-1] < 16
        hidden = self.body(x).relu()
        return self.head((hidden if self.small else hidden.roll(1, -1)).mean((2, 3)))


def test_what_scoring_on_a_small_input_notes_on_modules_does_not_stay() -> None:
    dense = NotesItsInput()
    plan = rc.plan(dense, torch.randn(1, 3, 64, 64), rc.Budget(params="2x"))
    assert not dense.small and plan.rows[0].width < 16


def test_the_compiler_knows_functions_that_were_replaced_when_it_looked_them_up() -> None:
    rules = pytest.importorskip("torch._dynamo.trace_rules")
    rules.clear_lru_cache()
    function = torch.conv1d
    with patched([(torch, "conv1d", torch.conv2d)]):
        assert function not in rules.get_torch_obj_rule_map()
    assert function in rules.get_torch_obj_rule_map()
