"""What is promised for every network, held for one of them and one choice of channels or budget."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.costs.model import CostModel
from reconvene.errors import BudgetError, CriterionError, StructureError
from reconvene.structure import Keep, Structure, analyse, call, tensors_in
from reconvene.structure.pruned_sizes import settle
from reconvene.structure.replay import pin_site, replay
from reconvene.surgery import Plan, make_plan
from support.proof import TOLERANCE, both_signs, error, unsettle
from support.random_nets import Spec, build


def hold_budget(spec: Spec, criterion: str, shares: dict[str, float], round_to: int) -> Plan | None:
    """The plan for a budget keeps it, in the costs of what it makes; one that cannot be kept is below the floor."""
    model, inputs = build(spec)
    model, inputs = unsettle(both_signs(model)).double(), _double(inputs)
    scored_by = {} if criterion == "default" else {"criterion": criterion}
    if criterion == "synflow" and _gradients(copy.deepcopy(model), inputs) is None:
        return None  # it overwrites what its backward pass needs, so no flow can score it
    dense = CostModel(analyse(model, inputs)).dense
    limits = {cost: share * dense[cost] for cost, share in shares.items()}
    before = {name: (tensor, tensor.clone()) for name, tensor in model.named_parameters()}
    try:
        plan = rc.plan(model, inputs, rc.Budget(**shares), round_to=round_to, **scored_by)
    except BudgetError as refusal:
        assert any(refusal.floor[cost] > limit for cost, limit in limits.items())
        return None
    except StructureError as refusal:
        assert "nothing of this model can be pruned" in str(refusal)
        return None
    except CriterionError:
        assert criterion == "synflow", "the others need no flow"
        return None
    after = dict(model.named_parameters())
    assert all(after[name] is tensor and torch.equal(tensor, value) for name, (tensor, value) in before.items())
    small = plan.apply(model)
    counted = CostModel(analyse(small, inputs, trial=False)).dense
    for cost, limit in limits.items():
        assert counted[cost] <= limit + 1e-6 and plan.costs["pruned"][cost] <= limit + 1e-6, cost
    assert all(1 <= row.width <= row.dense for row in plan.rows)
    _shrunk_equals_silenced(plan, model, small, inputs)
    again = rc.plan(model, inputs, rc.Budget(**shares), round_to=round_to, **scored_by)
    assert again.to_json() == plan.to_json()
    return plan


def hold(spec: Spec, choice: int) -> tuple[Structure, nn.Module]:
    """Every promise for one network and one random choice of channels; returns what was made."""
    model, inputs = build(spec)
    model, inputs = unsettle(both_signs(model)).double(), _double(inputs)
    structure = _untouched(model, inputs)
    _is_partition(structure)
    structure, keep, scalars = _random_keep(model, inputs, structure, choice)
    plan = make_plan(model, structure, keep, [], scalars=scalars)
    small = plan.apply(model)
    _shrunk_equals_silenced(plan, model, small, inputs)
    _layers_say_what_they_are(small)
    _saved_plan_gives_the_same(plan, model, small)
    _costs_are_those_counted_afresh(structure, keep, small, inputs)
    _trains(model, small, inputs)
    return structure, small


def _double(inputs: Any) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, inputs)


def _untouched(model: nn.Module, inputs: Any) -> Structure:
    """Analysis leaves weights, identities, mode, hooks and the random state as they were."""
    calls: list[int] = []
    hook = model.stem.register_forward_hook(lambda *_: calls.append(1))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {name: tensor.clone() for name, tensor in tensors.items()}
    attributes = [(name, dict(m.__dict__)) for name, m in model.named_modules()]
    state, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    structure = analyse(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert after.keys() == tensors.keys() and all(after[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(tensor, values[name]) and tensor.grad is None for name, tensor in after.items())
    for (_, before), module in zip(attributes, model.modules(), strict=True):
        assert {k: v for k, v in before.items() if isinstance(v, (int, float, tuple))} == {
            k: v for k, v in module.__dict__.items() if isinstance(v, (int, float, tuple))
        }
        assert all(type(module.__dict__[k]) is type(v) for k, v in before.items())
    assert len(model.stem._forward_hooks) == 1
    hook.remove()
    return structure


def _is_partition(structure: Structure) -> None:
    """No position of a tensor is in two groups, and all channels of a group fill as many positions."""
    seen: dict[tuple[str, int], set[int]] = {}
    for group in structure.prunable:
        assert group.width >= 1 and group.slots
        for slot in group.slots:
            assert slot.index.ndim == 2 and slot.index.shape[0] == group.width and slot.index.shape[1] >= 1
            positions = slot.index.reshape(-1).tolist()
            mine = seen.setdefault((slot.parameter, slot.dim), set())
            assert len(set(positions)) == len(positions) and not mine & set(positions)
            mine.update(positions)
            assert max(positions) < structure.recording.parameters[slot.parameter].shape[slot.dim]


def _random_keep(model: nn.Module, inputs: Any, structure: Structure, choice: int) -> tuple[Structure, Keep, Any]:
    """Any widths from one channel up, balanced where they must be; what replay refuses is pinned, as in ``rc.plan``."""
    while True:
        random = np.random.default_rng(choice)
        low = np.maximum(1, structure.widths * random.choice([0.0, 0.25, 0.5])).astype(np.int64)
        widths = settle(structure.balances, random.integers(low, structure.widths + 1), structure.widths)
        assert (widths >= 1).all()
        pairs = zip(structure.prunable, widths, strict=True)
        keep = [np.sort(random.permutation(group.width)[:width]) for group, width in pairs]
        rerun = replay(model, inputs, structure, keep)
        if rerun.failure is None:
            return structure, keep, rerun.scalars
        if not structure.prunable:
            raise StructureError(f"nothing of this model can be pruned: {rerun.failure[1]}")
        structure = pin_site(model, structure, *rerun.failure)


def _shrunk_equals_silenced(plan: Plan, model: nn.Module, small: nn.Module, inputs: Any) -> None:
    modes = [module.training for module in model.modules()]
    assert [module.training for module in small.modules()] == modes
    assert type(small) is type(model)
    small, same = copy.deepcopy(small).eval(), plan.mask(model).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        got, want = call(small, inputs), call(same, inputs)
    assert all(torch.isfinite(t).all() for t in tensors_in(want))
    assert error(got, want) < TOLERANCE


def _layers_say_what_they_are(small: nn.Module) -> None:
    """Nothing is empty, and the attributes of layers repeat the shapes of their tensors."""
    for module in small.modules():
        own = {name: tuple(tensor.shape) for name, tensor in module.named_parameters(recurse=False)}
        own |= {name: tuple(tensor.shape) for name, tensor in module.named_buffers(recurse=False)}
        assert all(0 not in shape for shape in own.values())
        if "weight" not in own:
            continue
        if isinstance(module, nn.modules.conv._ConvNd):
            first, second = module.out_channels, module.in_channels
            first, second = (second, first) if module.transposed else (first, second)
            assert own["weight"][:2] == (first, second // module.groups)
        elif isinstance(module, nn.Linear):
            assert own["weight"] == (module.out_features, module.in_features)
        elif isinstance(module, nn.Embedding):
            assert own["weight"] == (module.num_embeddings, module.embedding_dim)
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            assert all(shape in ((), (module.num_features,)) for shape in own.values())
        elif isinstance(module, nn.GroupNorm):
            assert all(shape == (module.num_channels,) for shape in own.values())
            assert module.num_channels % module.num_groups == 0
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            assert all(shape == tuple(module.normalized_shape) for shape in own.values())


def _saved_plan_gives_the_same(plan: Plan, model: nn.Module, small: nn.Module) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        plan.save(path)
        first = path.read_bytes()
        loaded = Plan.load(path)
        loaded.save(path)
        assert path.read_bytes() == first
    again = loaded.apply(copy.deepcopy(model))
    mine, its = small.state_dict(), again.state_dict()
    assert mine.keys() == its.keys()
    assert all(mine[n].numpy().tobytes() == its[n].numpy().tobytes() and mine[n].shape == its[n].shape for n in mine)
    assert repr(again) == repr(small)


def _costs_are_those_counted_afresh(structure: Structure, keep: Keep, small: nn.Module, inputs: Any) -> None:
    widths = np.array([len(channels) for channels in keep], dtype=np.int64)
    predicted = CostModel(structure)
    afresh = analyse(small, inputs, trial=False)
    counted = CostModel(afresh).dense
    assert counted["params"] == sum(p.numel() for p in small.parameters())
    for cost in ("params", "macs"):
        assert predicted.evaluate(cost, widths) == counted[cost], cost
    peak = predicted.evaluate("peak_memory", widths)
    # Of a few calls (a reshape, a shuffle of single channels) the widths decide whether they copy at all.
    off = peak - counted["peak_memory"]
    same_way = len(structure.eval_ops()) == len(afresh.eval_ops())  # a single head is multiplied in fewer calls
    same_way = same_way and not _sized_by_values(structure)
    assert off == 0 or not same_way or off * (_copies(structure) - _copies(afresh)) > 0


def _sized_by_values(structure: Structure) -> bool:
    """Whether a mask chooses how many numbers a tensor holds: no width says how much memory that takes."""
    masks = (t for op in structure.eval_ops() if "index" in op.name for t in tensors_in(op.args[1:]))
    return any(mask.dtype == torch.bool for mask in masks)


def _copies(structure: Structure) -> int:
    """Distinct memory that the eval pass makes."""
    made = [out for op in structure.eval_ops() for out in op.outs if out is not None]
    return len({out.untyped_storage()._cdata for out in made})


def _trains(model: nn.Module, small: nn.Module, inputs: Any) -> None:
    """What has a gradient in the dense network has a finite one in the small network."""
    try:
        dense = _gradients(copy.deepcopy(model), inputs)
    except ValueError as refusal:  # a norm over one pixel trains in no network
        assert "more than 1 spatial element" in str(refusal)
        return
    if dense is None:
        return  # the dense network cannot be trained itself: it overwrites what its backward pass needs
    after = _gradients(copy.deepcopy(small), inputs)
    assert after is not None and after.keys() == dense.keys()
    assert all(torch.isfinite(gradient).all() for gradient in after.values())


def _gradients(model: nn.Module, inputs: Any) -> dict[str, Tensor] | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            sum(out.square().mean() for out in tensors_in(call(model.train(), inputs))).backward()
        except RuntimeError as error:
            if "inplace operation" in str(error):
                return None
            raise
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
