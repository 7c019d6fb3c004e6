"""Masks: exact, nested, reproducible, equal to the straightforward loop; the model as it was."""

from __future__ import annotations

import importlib.util
import random
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from reconvene.criteria import CRITERIA, LAYERWISE, masks_at, objective, score, weights
from reconvene.criteria.topk import keep_largest, kept, schedule, with_floor
from reconvene.errors import CriterionError, UnknownNameError
from reconvene.models import MODELS
from support.paths import BENCHMARKS


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 4),
    )  # fmt: skip


IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
DATA = [(IMAGES[:6], torch.arange(6) % 4), (IMAGES[6:], torch.arange(6) % 4)]


def flat(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([mask.flatten() for mask in found.values()])


@pytest.mark.parametrize("rounds", [1, 6])
@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_masks_hit_the_density_exactly_and_have_the_shapes_of_the_weights(criterion: str, rounds: int) -> None:
    net = network()
    total = sum(weight.numel() for weight in weights(net).values())
    for density in (1.0, 0.37, 0.05, 1e-9):
        found = masks_at(net, density, criterion, example_inputs=IMAGES, data=DATA, rounds=rounds)
        assert int(flat(found).sum()) == max(1, int(density * total + 0.5))
        assert {name: mask.shape for name, mask in found.items()} == {n: w.shape for n, w in weights(net).items()}
        assert all(mask.dtype == torch.bool for mask in found.values())


@pytest.mark.parametrize("layerwise", [None, "erk"])
@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_iterative_masks_are_nested(criterion: str, layerwise: str | None) -> None:
    # four rounds of a schedule to d are the first four of eight to d ** 2
    net = network()
    options = {"example_inputs": IMAGES, "data": DATA, "layerwise": layerwise}
    outer = flat(masks_at(net, 0.3, criterion, rounds=4, **options))
    inner = flat(masks_at(net, 0.09, criterion, rounds=8, **options))
    assert not (inner & ~outer).any()
    assert int(inner.sum()) < int(outer.sum())


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_rounds_score_the_masked_network_again(criterion: str) -> None:
    net = network()
    once, often = (masks_at(net, 0.1, criterion, example_inputs=IMAGES, data=DATA, rounds=n) for n in (1, 8))
    assert not torch.equal(flat(once), flat(often))


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_same_seed_same_bytes(criterion: str) -> None:
    loader = DataLoader(TensorDataset(IMAGES, torch.arange(12) % 4), batch_size=5, shuffle=True)
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # the caller's random state does not matter
        runs.append(score(network(), IMAGES, criterion, data=loader, seed=7, rounds=3))
    for name, view in runs[0].scores.items():
        assert view.numpy().tobytes() == runs[1].scores[name].numpy().tobytes()
        assert runs[0].densities[name].tobytes() == runs[1].densities[name].tobytes()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_the_model_is_untouched(criterion: str, training: bool) -> None:
    net = network().train(training)
    net[1].training = not training  # one layer on its own
    net[4].weight.grad = torch.full_like(net[4].weight, 2.0)
    net[0].weight.requires_grad_(False)
    hooks = [net[2].register_forward_hook(lambda *_: None)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    momenta = [module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    identities = [id(parameter) for parameter in net.parameters()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    with torch.no_grad():
        masks_at(net, 0.2, criterion, example_inputs=IMAGES, data=DATA, rounds=2)
        score(net, IMAGES, criterion, data=DATA)
        objective(net, IMAGES, criterion, data=DATA)({"0.weight": torch.zeros(1)})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert [module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)] == momenta
    assert [id(parameter) for parameter in net.parameters()] == identities
    assert [name for name, parameter in net.named_parameters() if parameter.grad is not None] == ["4.weight"]
    assert (net[4].weight.grad == 2.0).all()
    assert [name for name, parameter in net.named_parameters() if not parameter.requires_grad] == ["0.weight"]
    assert len(net[2]._forward_hooks) == len(hooks) and not any(len(m._forward_pre_hooks) for m in net.modules())
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_state()[1].tobytes() == states[2]


def test_the_model_is_untouched_after_a_failure() -> None:
    net = network().train()
    state = torch.get_rng_state()
    with pytest.raises(CriterionError):
        masks_at(net, 0.2, "snip", example_inputs=IMAGES, data=[*DATA, (IMAGES[:, :1], torch.zeros(12).long())])
    assert all(module.training for module in net.modules())
    assert net[1].momentum == 0.1 and not net[1].running_mean.any()
    assert torch.equal(torch.get_rng_state(), state)


def test_tied_weights_count_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    net[2].weight = net[0].weight
    assert list(weights(net)) == ["0.weight"]
    found = masks_at(net, 0.5, example_inputs=torch.ones(1, 4), rounds=2)
    assert int(found["0.weight"].sum()) == 8


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
def test_densities_outside_zero_and_one_are_an_error(density: float) -> None:
    with pytest.raises(CriterionError, match="density must lie in"):
        masks_at(network(), density, "magnitude", example_inputs=IMAGES)


def test_other_bad_arguments() -> None:
    with pytest.raises(CriterionError, match="rounds must be at least 1"):
        masks_at(network(), 0.5, "magnitude", example_inputs=IMAGES, rounds=0)
    with pytest.raises(UnknownNameError, match="erk, smart_ratio, uniform"):
        masks_at(network(), 0.5, "magnitude", example_inputs=IMAGES, layerwise="ekr")


@pytest.mark.parametrize("density", [0.9, 0.2, 0.01])
@pytest.mark.parametrize("layerwise", list(LAYERWISE))
def test_layerwise_densities_keep_the_total_and_their_own_form(layerwise: str, density: float) -> None:
    net = network()
    found = masks_at(net, density, "random", example_inputs=IMAGES, layerwise=layerwise)
    counts = {name: int(mask.sum()) for name, mask in found.items()}
    shapes = [mask.shape for mask in found.values()]
    assert sum(counts.values()) == kept(density, sum(mask.numel() for mask in found.values()))
    ideal = LAYERWISE[layerwise](shapes, density)
    assert (ideal <= 1.0).all() and (ideal >= 0.0).all()
    for share, mask in zip(ideal, found.values(), strict=True):
        assert abs(int(mask.sum()) - share * mask.numel()) <= 1
    best = masks_at(net, density, "magnitude", example_inputs=IMAGES, layerwise=layerwise)
    for name, mask in best.items():
        values = weights(net)[name].detach().abs()
        if 0 < int(mask.sum()) < mask.numel():
            assert values[mask].min() >= values[~mask].max()


def test_erk_is_proportional_to_dimensions_over_product() -> None:
    shapes = [torch.Size((8, 4, 3, 3)), torch.Size((16, 8, 3, 3)), torch.Size((64, 32))]
    found = LAYERWISE["erk"](shapes, 0.1)
    assert found[0] / found[1] == pytest.approx((18 / 288) / (30 / 1152))
    assert found[0] / found[2] == pytest.approx((18 / 288) / (96 / 2048))


def test_smart_ratio_falls_with_depth_and_keeps_the_last_layer() -> None:
    found = LAYERWISE["smart_ratio"]([torch.Size((50, 50))] * 4 + [torch.Size((10, 50))], 0.1)
    assert (found[:3] > found[1:4]).all() and found[-1] == pytest.approx(0.3)
    assert found[0] / found[3] == pytest.approx((5**2 + 5) / (2**2 + 2))


def brute_force(scores: Tensor, keep: int, alive: Tensor | None) -> Tensor:
    order = sorted(
        range(len(scores)),
        key=lambda i: (-(float("-inf") if alive is not None and not alive[i] else float(scores[i])), i),
    )
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[order[:keep]] = True
    return mask


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.0, 0.25, 1.0, 3.0]), min_size=1, max_size=40),
    signs=st.booleans(),
    masked=st.booleans(),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_selection_equals_sorting_with_ties_in_order(
    values: list[float], signs: bool, masked: bool, share: float, seed: int
) -> None:
    scores = torch.tensor(values) if signs else torch.tensor(values).abs()
    alive = torch.rand(len(values), generator=torch.Generator().manual_seed(seed)) < 0.7 if masked else None
    room = len(values) if alive is None else int(alive.sum())
    if room:
        keep = max(1, round(share * room))
        assert torch.equal(keep_largest(scores, keep, alive=alive), brute_force(scores, keep, alive))


@pytest.mark.parametrize("kind", ["smooth", "mostly zero", "few values", "layers of different scale", "signed"])
def test_selection_is_exact_on_large_buffers(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(400_000, generator=generator)
    if kind == "mostly zero":
        scores *= torch.rand(400_000, generator=generator) < 0.05
    elif kind == "few values":
        scores = (scores * 7).floor()
    elif kind == "layers of different scale":
        scores[:1000] *= 1e6
        scores[200_000:] *= 1e-12
    elif kind == "signed":
        scores -= 0.5
    order = torch.sort(scores, descending=True, stable=True).indices
    for keep in (1, 900, 19_000, 20_500, 123_456, 399_999, 400_000):
        expected = torch.zeros(400_000, dtype=torch.bool)
        expected[order[:keep]] = True
        assert torch.equal(keep_largest(scores, keep), expected)
        assert torch.equal(keep_largest(scores, keep, alive=torch.ones(400_000, dtype=torch.bool)), expected)


@pytest.mark.parametrize("size", [50, 200_000])
def test_scores_that_are_equal_in_float32_are_compared_in_float64(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    precise = torch.rand(size, generator=generator, dtype=torch.float64)
    rivals = torch.randperm(size, generator=generator)[:20]
    precise[rivals] = 0.5 + 1e-12 * torch.randperm(20, generator=generator).double()
    asked = []

    def exact(places: np.ndarray) -> np.ndarray:
        asked.append(len(places))
        return precise.numpy()[places]

    for above in (3, 11):
        keep = int((precise > 0.5 + 1e-9).sum()) + above
        expected = torch.zeros(size, dtype=torch.bool)
        expected[precise.argsort(descending=True)[:keep]] = True
        assert torch.equal(keep_largest(precise.float(), keep, exact=exact), expected)
    assert len(asked) == 2 and max(asked) < 30  # only the rivals and chance neighbours are computed anew


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    masked=st.booleans(),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 999),
)
def test_the_floor_keeps_the_best_of_every_layer_and_the_total(
    sizes: list[int], masked: bool, share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    scores = torch.rand(total, generator=generator) * 10.0 ** torch.randint(-9, 9, (total,), generator=generator)
    scores *= torch.rand(total, generator=generator) < 0.8
    alive = torch.rand(total, generator=generator) < 0.7 if masked else None
    room = total if alive is None else int(alive.sum())
    keep = max(1, round(share * room))
    if not room:
        return
    plain = keep_largest(scores, keep, alive=alive)
    mask = with_floor(plain, scores, sizes, keep, alive=alive)
    assert int(mask.sum()) == keep and (alive is None or not (mask & ~alive).any())
    layers = list(zip(mask.split(sizes), plain.split(sizes), scores.split(sizes), strict=True))
    if keep <= len(sizes):
        assert torch.equal(mask, plain)
        return
    for layer, (kept_here, _, values) in enumerate(layers):
        living = torch.ones_like(kept_here) if alive is None else alive.split(sizes)[layer]
        if living.any():
            assert kept_here[values.masked_fill(~living, -1).argmax()]  # the best of the layer
        out, inside = values[living & ~kept_here], values[kept_here]
        assert not out.numel() or not inside.numel() or out.max() <= inside.max()
    if all(part.any() for _, part, _ in layers):
        assert torch.equal(mask, plain)


@pytest.mark.parametrize("criterion", list(CRITERIA))
@pytest.mark.parametrize("layerwise", [None, *LAYERWISE])
def test_masks_empty_no_layer_of_a_network_with_shortcuts(criterion: str, layerwise: str | None) -> None:
    torch.manual_seed(0)
    net = MODELS["resnet18"](width=0.125)
    for name, module in net.named_modules():  # as recipes for residual networks start: no branch says anything
        if name.endswith("bn2"):
            nn.init.zeros_(module.weight)
    images = torch.randn(4, 3, 32, 32)
    data = [(images, torch.arange(4))]
    found = masks_at(net, 0.02, criterion, example_inputs=images[:1], data=data, rounds=4, layerwise=layerwise)
    total = sum(mask.numel() for mask in found.values())
    assert all(bool(mask.any()) for mask in found.values())
    assert int(flat(found).sum()) == kept(0.02, total)


def reference() -> ModuleType:
    path = BENCHMARKS / "reference_synflow.py"
    spec = importlib.util.spec_from_file_location("reference_synflow", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "rounds"), [("resnet20", 25), ("mobilenetv2", 5)])
def test_masks_are_those_of_the_straightforward_loop(name: str, rounds: int) -> None:
    torch.manual_seed(0)
    net, images = MODELS[name](), torch.ones(1, 3, 32, 32)
    for module in net.modules():
        if isinstance(module, nn.ReLU6):
            module.max_val = torch.inf  # the reference would clip every signal
    *_, theirs = reference().reference_synflow(net, images, 0.05, rounds)
    ours = masks_at(net, 0.05, "synflow", example_inputs=images, rounds=rounds)
    assert reference().overlap(ours, theirs) > 0.999


def test_the_schedule_is_exponential_and_ends_at_the_density() -> None:
    found = schedule(0.1, 100)
    assert found[-1] == 0.1 and len(found) == 100
    assert all(found[k + 1] / found[k] == pytest.approx(0.1**0.01) for k in range(99))
