"""Models with state: whatever was run before, the same plan and the same bytes, and the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.structure.state import known_state
from reconvene.surgery import Plan
from support.state_nets import NEURONS, Net, NoneMembrane, X, built, fire

BUDGET = rc.Budget(params="3x")


neurons = pytest.mark.parametrize("neuron", NEURONS, ids=lambda c: c.__name__)


def afresh(model: nn.Module, neuron: Callable[[], nn.Module]) -> nn.Module:
    """What a person does who knows the neurons: new ones."""
    for name in ("fire1", "fire2"):
        setattr(model, name, neuron())
    return model


def ran(model: nn.Module) -> None:
    with torch.no_grad():
        model(X)


def trained(model: nn.Module) -> None:
    model.train()
    model(X).square().mean().backward()  # no step of an optimizer: the weights stay what they are
    model.zero_grad()
    model.eval()
    model.norm.reset_running_stats()  # type: ignore[operator, union-attr]


def odd(model: nn.Module) -> None:
    with torch.no_grad():
        model(X[:1].repeat(7, 1, 1, 1))


HISTORIES = [ran, trained, odd]
histories = pytest.mark.parametrize("history", HISTORIES, ids=lambda f: f.__name__)


def is_same(old: Any, new: Any) -> bool:
    """Whether two pieces of state are equal, tensors in tuples and tables too."""
    if isinstance(old, Tensor):
        return isinstance(new, Tensor) and torch.equal(old, new)
    if isinstance(old, tuple | dict):
        return len(old) == len(new) and all(is_same(*pair) for pair in zip(_values(old), _values(new), strict=True))
    return bool(old == new)


def _values(state: Any) -> list[Any]:
    return [*state, *state.values()] if isinstance(state, dict) else list(state)


def held(model: nn.Module) -> list[tuple[str, str, Any]]:
    return [
        (path, name, tuple(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value)
        for path, module in model.named_modules()
        for name, value in (*vars(module).items(), *module._buffers.items())
        if not name.startswith("_") or name == "_buffers"
    ]


@neurons
@histories
def test_the_plan_and_its_networks_are_the_same_whatever_was_run_before(
    neuron: Callable[[], nn.Module], history: Callable[[nn.Module], None]
) -> None:
    fresh, used = built(neuron), built(neuron)
    history(used)
    before = held(used)
    plans = [rc.plan(model, X, BUDGET) for model in (fresh, used)]
    assert plans[0].to_json() == plans[1].to_json()
    assert {row.name: row.width < row.dense for row in plans[0].rows} == {"conv1": True, "conv2": True}
    for (path, name, old), (_, _, new) in zip(before, held(used), strict=True):
        assert is_same(old, new), f"{path}.{name} was left changed"
    outputs = [plan.apply(model)(X) for plan, model in zip(plans, (fresh, used), strict=True)]
    assert torch.equal(*outputs)
    assert rc.Plan.from_dict(plans[0].to_dict()).to_json() == plans[0].to_json()


@neurons
@pytest.mark.parametrize("batch", [1, 7])
def test_small_is_silenced_bit_for_bit_over_three_calls(neuron: Callable[[], nn.Module], batch: int) -> None:
    model = built(neuron)
    trained(model)
    plan = rc.plan(model, X, BUDGET)
    small, silenced = plan.apply(model), plan.mask(model)
    x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    spikes: list[list[Tensor]] = [[], []]
    for network, seen in zip((small, silenced), spikes, strict=True):
        network.fire1.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out))
    kept = torch.from_numpy(plan.keep["conv1"])
    with torch.no_grad():
        for _ in range(3):
            # Sums over fewer zeros may be taken in another order.
            assert torch.allclose(small(x), silenced(x), atol=1e-6)
    assert len(spikes[0]) == 9
    assert all(torch.equal(a, b[:, kept]) for a, b in zip(*spikes, strict=True))


@neurons
def test_scores_do_not_depend_on_what_was_run_or_on_the_order_of_batches(neuron: Callable[[], nn.Module]) -> None:
    model = built(neuron)
    batches = [(X, torch.tensor([0, 1])), (torch.flip(X, (3,))[:1], torch.tensor([2]))]
    sizes = []
    for data in (batches, batches[::-1]):
        plan = rc.plan(model, X, BUDGET, criterion="taylor", data=data, trained=True)
        sizes.append(plan.keep)
        odd(model)
    assert all((sizes[0][name] == sizes[1][name]).all() for name in sizes[0])


@neurons
@histories
def test_pruning_rectifies_from_a_fresh_state(
    neuron: Callable[[], nn.Module], history: Callable[[nn.Module], None]
) -> None:
    fresh, used = built(neuron), built(neuron)
    history(used)
    small = [rc.prune(model, X, BUDGET) for model in (fresh, used)]
    assert small[0].reconvene_plan.to_json() == small[1].reconvene_plan.to_json()
    assert all(torch.equal(a, b) for a, b in zip(small[0].parameters(), small[1].parameters(), strict=True))
    assert torch.equal(small[0](X), small[1](X))


class Registered(NoneMembrane):
    """A neuron of which a list knows all there are, and a reset that goes through the list (snnTorch's way)."""

    instances: list[nn.Module] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        Registered.instances.append(self)

    @classmethod
    def reset_all(cls) -> None:
        for neuron in cls.instances:
            neuron.mem = None  # type: ignore[assignment]


class ResetsAll(Net):
    def forward(self, x: Tensor) -> Tensor:
        Registered.reset_all()
        return super().forward(x)


def test_two_models_in_one_process_do_not_influence_each_other() -> None:
    torch.manual_seed(0)
    other = ResetsAll(Registered).eval()
    ran(other)
    membrane = other.fire1.mem
    torch.manual_seed(0)
    model = ResetsAll(Registered).eval()
    want = model(X)
    count = len(Registered.instances)
    ran(other)
    membrane = other.fire1.mem
    plan = rc.plan(model, X, BUDGET)
    assert other.fire1.mem is membrane and len(Registered.instances) == count
    small, silenced = plan.apply(model), plan.mask(model)
    first = small(X)
    assert torch.equal(small(X), first), "a copy is reset as its original is"
    assert torch.allclose(first, silenced(X), atol=1e-6) and torch.equal(model(X), want)
    del small, silenced
    assert len(Registered.instances) == count


class Normed(nn.Module):
    """Old-style weight norm leaves a tensor in an attribute: it is made of parameters alone, and no state."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.utils.weight_norm(nn.Linear(6, 16))
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
class NumberMembrane(nn.Module):
    """State that begins as a number, alone or in a list."""

    def __init__(self, start: float = 0.25, listed: bool = False) -> None:
        super().__init__()
        self.mem: Any = [start] if listed else start
        self.listed = listed

    def forward(self, x: Tensor) -> Tensor:
        mem = 0.8 * (self.mem[0] if self.listed else self.mem) + x
        self.mem = [mem - 0.5 * fire(mem)] if self.listed else mem - 0.5 * fire(mem)
        return fire(mem)


@pytest.mark.parametrize("listed", [False, True])
def test_state_that_begins_as_a_number_goes_back_to_it(listed: bool) -> None:
    """A model that is run between its plan and the use of the plan holds tensors where the plan saw numbers."""
    fresh, model = (built(lambda: NumberMembrane(listed=listed)) for _ in range(2))
    with torch.no_grad():
        expected = rc.plan(fresh, X, BUDGET).apply(fresh)(X)
        plan = rc.plan(model, X, BUDGET)
        model(X[:1])
        assert torch.equal(plan.apply(model)(X), expected)
        assert torch.allclose(plan.mask(model)(X), expected, atol=1e-5)
        saved = Plan.from_dict(plan.to_dict())
        assert saved.state == plan.state and torch.equal(saved.apply(model)(X), expected)


def test_what_is_made_of_parameters_alone_is_no_state() -> None:
    model = Normed()
    rc.groups(model, torch.randn(2, 6))
    assert known_state(model) == ()


@neurons
def test_an_exported_file_does_not_depend_on_what_was_run(neuron: Callable[[], nn.Module], tmp_path: Any) -> None:
    fresh, used = built(neuron), built(neuron)
    odd(used)
    files = [
        rc.export(model, tmp_path / name, format="onnx", example_inputs=X).path
        for name, model in (("fresh", fresh), ("used", used))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
