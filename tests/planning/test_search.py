"""Search of widths and bits: the network that is trained is the one that is cut, budgets are kept, runs go on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import reconvene as rc
from reconvene import devices
from reconvene.costs import Budget, targets
from reconvene.devices.latency_cost import DeviceLatency
from reconvene.devices.store import named_folder
from reconvene.errors import ArgumentError, BudgetError, DeviceError, TrainingError
from reconvene.planning import target
from reconvene.planning.bits.decider import BitDecider
from reconvene.planning.options import Options
from reconvene.planning.search import phases
from reconvene.planning.search import run as search_run
from reconvene.planning.search.phases import SearchPhase
from reconvene.quantiser import fake_quantised
from reconvene.structure import analyse
from reconvene.surgery import make_plan
from reconvene.training.adam import Adam
from support import device_fakes


class Mixed(nn.Module):
    """A residual block, a grouped and a depthwise convolution, a concatenation, a gate behind a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.gate = nn.Linear(8, 8)
        self.side = nn.Conv2d(8, 6, 1)
        self.grouped = nn.Conv2d(14, 8, 1, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.depthwise(torch.relu(self.body(x) + x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        x = self.grouped(torch.cat([x, torch.sigmoid(self.side(x))], dim=1))
        return self.head(torch.relu(x).mean((2, 3)))


def problem(seed: int = 0) -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(seed)
    images = torch.randn(96, 3, 8, 8)
    labels = (images.mean((2, 3)) @ torch.tensor([[1.0, -1, 0], [0, 1, -1], [1, 0, -1]])).argmax(1)
    return Mixed(), list(zip(images.split(16), labels.split(16), strict=True))


def searched(**options: Any) -> nn.Module:
    model, batches = problem()
    return rc.search(model, batches[0][0][:1], rc.Budget(size="700B"), train=batches, epochs=5, warmup=1, **options)


def same_bytes(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return (
        list(a) == list(b)
        and all(torch.equal(a[name], b[name]) for name in a)
        and one.reconvene_plan.to_json() == other.reconvene_plan.to_json()
    )


def test_a_search_keeps_its_budget_and_leaves_everything_else_as_it_was() -> None:
    model, batches = problem()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    state, told = torch.get_rng_state(), []
    small = rc.search(
        model,
        batches[0][0][:1],
        rc.Budget(size="700B"),
        train=batches,
        epochs=5,
        warmup=1,
        progress=lambda *event: told.append(event),
    )
    plan = small.reconvene_plan
    assert 0.95 * 700 <= plan.costs["pruned"]["size"] <= 700
    assert not small.training and type(small) is Mixed
    assert all(len(small.get_parameter(name)) == len(layer.bits) for name, layer in plan.bits.layers.items())
    assert model.training and all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_pre_hooks for module in (*model.modules(), *small.modules()))
    assert [event[:2] for event in told] == [(step, 30) for step in range(1, 31)]
    assert ["warm-up" in told[0][2], "of the budget" in told[10][2], "fine-tuning" in told[-1][2]] == [True] * 3
    assert same_bytes(small, searched())


def test_the_network_that_is_trained_is_the_one_that_is_cut() -> None:
    model, batches = problem()
    for images, _ in batches:
        model(images)  # norms get statistics
    options = Options(data=batches, trained=True, bits=(0, 2, 4, 8))
    decider = BitDecider(model, batches[0][0][:1], Budget(size="700B"), options, (0, 2, 4, 8))
    phase = SearchPhase(model, batches[0][0][:1], decider, F.cross_entropy)
    generator = torch.Generator().manual_seed(1)
    for logits in phase.searched.choices().values():  # a decision that no solver made
        logits.data.normal_(0, 1, generator=generator)
    phase.searched.refresh()
    decision, posed = phase.searched.decision, phase.posed
    assert any(not kept.all() for kept in decision.masks)
    choice = decider.choice(posed, decision, by="chance", why="by chance")
    plan = make_plan(model, posed.structure, choice.keep, choice.rows, bits=choice.bits)
    small = fake_quantised(plan.apply(model), plan.bits.by_weight).eval()
    model.eval()
    with torch.no_grad():
        expected = small(batches[0][0])
        weights = phase.searched.weights()
        result = torch.func.functional_call(model, weights, (batches[0][0],))
    assert torch.allclose(result, expected, atol=1e-5)
    # Every choice has a derivative, of channels that left too.
    model.train()
    loss, objective = phase.objective(*batches[0], step=0, steps=1)
    objective.backward()
    gradients = {name: logits.grad for name, logits in phase.searched.choices().items()}
    assert all(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients.values())
    assert bool(objective > loss)  # what the decision costs


def test_costs_push_choices_down_by_what_they_cost() -> None:
    model, batches = problem()
    options = Options(data=batches, trained=True, bits=(0, 2, 4, 8))
    decider = BitDecider(model, batches[0][0][:1], Budget(size="700B"), options, (0, 2, 4, 8))
    phase = SearchPhase(model, batches[0][0][:1], decider, F.cross_entropy)
    with torch.no_grad():
        for logits in phase.searched.choices().values():
            logits.zero_()
            if logits.ndim == 2:
                logits[:, -1] = 1.0  # eight bits everywhere: far beyond the limit
            else:
                logits += 1.0
    phase.count()
    assert phase.use() > 1.5
    before = phase.multipliers.clone()
    for step in range(1, 21):
        zero = phase.objective(*batches[0], step=step, steps=20)[1] * 0
        (zero + phase.penalty()).backward()
        phase.after_step(step, 20)
    assert bool((phase.multipliers > before).all())
    bits, gates = phase.searched.bits[0], phase.searched.gates[0]
    assert bool((bits[:, -1] < 1).all()) and bool((bits[:, 0] > 0).all()) and bool((gates < 1).all())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A search without an interruption, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, searched(checkpoint=folder)


def test_a_finished_search_is_there_at_once(whole: tuple[Path, nn.Module]) -> None:
    folder, small = whole
    steps: list[int] = []
    assert same_bytes(small, searched(checkpoint=folder, progress=lambda done, *_: steps.append(done)))
    assert not steps


@pytest.mark.parametrize("stop", [3, 29])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    stop: int, whole: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_run, "SAVE_SECONDS", 0.0)

    def interrupt(done: int, total: int, name: str) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(checkpoint=tmp_path, progress=interrupt)
    steps: list[int] = []
    resumed = searched(checkpoint=tmp_path, progress=lambda done, total, _: steps.append(done) if total == 30 else None)
    folder, small = whole
    assert same_bytes(small, resumed) and steps[0] == stop
    examples = (network.reconvene_plan.calibration for network in (small, resumed))
    assert torch.equal(*examples)  # what exports and few bits of activations are calibrated on
    assert (folder / "train.jsonl").read_bytes() == (tmp_path / "train.jsonl").read_bytes()


class Shuffled:
    """The batches of ``problem`` in another order every epoch."""

    def __init__(self) -> None:
        _, batches = problem()
        self.images, self.labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.order = torch.randperm(96, generator=torch.Generator().manual_seed(epoch))

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        yield from zip(self.images[self.order].split(32), self.labels[self.order].split(32), strict=True)


@pytest.mark.parametrize("stop", [7, 11, 14])
def test_data_in_another_order_every_epoch_resume_to_the_same_bytes(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_run, "SAVE_SECONDS", 0.0)
    bits: dict[str, Any] = {"bits": (0, 2, 4, 8), "activation_bits": (2, 4, 8)}

    def run(data: Shuffled, **options: Any) -> nn.Module:
        model, batches = problem()
        asked = {"epochs": 6, "warmup": 1, "finetune": 2, **bits, **options}
        return rc.search(model, batches[0][0][:1], rc.Budget(ops_bit="6x"), train=data, **asked)

    def interrupt(done: int, total: int, name: str) -> None:
        if done == stop:
            raise KeyboardInterrupt

    data = Shuffled()
    with pytest.raises(KeyboardInterrupt):
        run(data, checkpoint=tmp_path, progress=interrupt)
    whole, resumed = run(Shuffled()), run(data, checkpoint=tmp_path)
    assert same_bytes(whole, resumed)
    assert torch.equal(whole.reconvene_plan.calibration, resumed.reconvene_plan.calibration)


def test_a_process_that_was_killed_leaves_a_run_that_goes_on(
    whole: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_run, "SAVE_SECONDS", 0.0)

    def kill(done: int, total: int, name: str) -> None:
        if (done, total) == (17, 30):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        searched(checkpoint=tmp_path, progress=kill)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert same_bytes(whole[1], searched(checkpoint=tmp_path))


def test_another_search_does_not_go_on_from_a_checkpoint(whole: tuple[Path, nn.Module], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(TrainingError, match="seed is 1 now and was 0"):
        searched(checkpoint=tmp_path, seed=1)


def test_budgets_and_epochs_that_cannot_be_are_named_at_once() -> None:
    model, batches = problem()
    with pytest.raises(BudgetError, match="with the fewest channels and bits it is"):
        rc.search(model, batches[0][0][:1], rc.Budget(size=50), train=batches, epochs=3)
    with pytest.raises(ArgumentError, match="leave 0 to search"):
        rc.search(model, batches[0][0][:1], rc.Budget(size="700B"), train=batches, epochs=3, warmup=1, finetune=2)
    with pytest.raises(ArgumentError, match="device without a budget on latency"):
        rc.search(model, batches[0][0][:1], rc.Budget(size="700B"), train=batches, device="here")
    with pytest.raises(TrainingError, match="no batches"):
        rc.search(model, batches[0][0][:1], rc.Budget(size="700B"), train=[])


def test_a_search_does_not_go_on_with_a_cost_file_of_other_content(tmp_path: Path) -> None:
    model, batches = problem()
    costs = tmp_path / "chip.toml"
    shutil.copy(targets()["mpic"], costs)
    options: dict[str, Any] = {"train": batches, "epochs": 3, "warmup": 1, "target": str(costs)}
    rc.search(model, batches[0][0][:1], rc.Budget(cycles="4x"), checkpoint=tmp_path / "run", **options)
    costs.write_text(costs.read_text().replace("4 = 4.0", "4 = 5.0"))
    with pytest.raises(TrainingError, match="target"):
        rc.search(model, batches[0][0][:1], rc.Budget(cycles="4x"), checkpoint=tmp_path / "run", **options)


def test_a_device_that_is_named_is_known_by_the_content_of_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    profile = named_folder() / "pi4.json"
    profile.parent.mkdir(parents=True)
    profile.write_text("one")
    before = target.Target(device="pi4").identity
    profile.write_text("two")
    assert target.Target(device="pi4").identity != before
    assert target.Target(device="here", chip="mpic").identity == {"device": "here", "target": "mpic"}


def on_device(model: nn.Module, image: torch.Tensor) -> devices.Profile:
    _, profile = device_fakes.of(model, image)
    return devices.Profile.from_dict({**profile.to_dict(), "precision": "int8"})


def test_a_search_keeps_the_latency_of_a_device_beside_a_size() -> None:
    model, batches = problem()
    image, device = batches[0][0][:1], on_device(model, batches[0][0][:1])
    budget, options = rc.Budget(latency="1.03x", size="900B"), {"train": batches, "epochs": 4, "round_to": 4}
    small = rc.search(model, image, budget, warmup=1, device=device, **options)
    plan = small.reconvene_plan
    predicted = DeviceLatency(device).bind(analyse(model, image), None)
    assert plan.costs["pruned"]["latency"] == predicted.at(plan.widths)
    assert all(plan.costs["pruned"][name] <= plan.limits[name] for name in ("latency", "size"))
    with pytest.raises(BudgetError, match="latency"):
        rc.search(model, image, rc.Budget(latency="50x"), device=device, **options)
    fp32 = devices.Profile.from_dict({**device.to_dict(), "precision": "fp32"})
    with pytest.raises(DeviceError, match="run in int8, and the profile of fake was measured in fp32"):
        rc.search(model, image, budget, device=fp32, **options)


class Stopwatch(DeviceLatency):
    """A device that takes a third longer than its profile says, and the fixed part twice."""

    measured, depends_on_values = True, False
    read: ClassVar[list[float]] = []

    def measure(self, model: nn.Module, example_inputs: Any) -> float:
        structure = analyse(model, example_inputs)
        value = 4e-6 + self.bind(structure, None).at(structure.widths) * 4 / 3
        self.read.append(value)
        return value


def test_what_is_cut_was_measured_and_a_run_that_goes_on_aims_at_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batches = problem()
    image, device = batches[0][0][:1], on_device(model, batches[0][0][:1])
    monkeypatch.setattr(target, "latency_on", lambda profile, *, measured: Stopwatch(profile))
    options = {"train": batches, "epochs": 4, "warmup": 1, "device": device, "round_to": 4}
    whole = rc.search(model, image, rc.Budget(latency="1.03x"), **options)
    plan = whole.reconvene_plan
    assert plan.costs["pruned"]["latency"] <= plan.limits["latency"] == plan.costs["dense"]["latency"] / 1.03
    assert plan.costs["pruned"]["latency"] in Stopwatch.read

    class Stopped(Exception):
        pass

    def stop(done: int, total: int, name: str) -> None:
        if (done, total) == (13, 24):
            raise Stopped

    monkeypatch.setattr(search_run, "SAVE_SECONDS", 0.0)
    with pytest.raises(Stopped):
        rc.search(model, image, rc.Budget(latency="1.03x"), checkpoint=tmp_path, progress=stop, **options)
    before = len(Stopwatch.read)
    again = rc.search(model, image, rc.Budget(latency="1.03x"), checkpoint=tmp_path, **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert len(Stopwatch.read) - before >= 2  # of what was decided alone: the dense network and candidates


def test_cycles_of_a_chip_and_layers_to_keep_are_searched_for_too() -> None:
    model, batches = problem()
    small = rc.search(
        model,
        batches[0][0][:1],
        rc.Budget(cycles="1.1x", size="2x"),
        train=batches[:2],
        epochs=2,
        target="mpic",
        keep=["stem"],
    )
    plan = small.reconvene_plan
    assert all(plan.costs["pruned"][name] <= limit for name, limit in plan.limits.items())
    assert small.stem[0].out_channels == 8


def test_a_search_keeps_the_bits_of_activations_it_began_with() -> None:
    model, batches = problem()
    budget, image = rc.Budget(ops_bit="6x"), batches[0][0][:1]
    asked = {"bits": (0, 2, 4, 8), "activation_bits": (2, 4, 8)}
    first = rc.plan(model, image, budget, trained=True, data=batches[:2], **asked)
    plan = rc.search(model, image, budget, train=batches[:2], epochs=2, **asked).reconvene_plan
    assert first.bits.inputs and plan.bits.inputs == first.bits.inputs
    assert plan.costs["pruned"]["ops_bit"] <= plan.limits["ops_bit"]


def test_adam_equals_the_one_of_torch() -> None:
    ours = {"a": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))}
    theirs = [tensor.clone().requires_grad_() for tensor in ours.values()]
    reference, adam = torch.optim.Adam(theirs, lr=0.02), Adam(ours)
    for step in range(12):
        gradient = torch.from_numpy(np.random.default_rng(step).normal(size=(5, 3)).astype(np.float32))
        ours["a"].grad, theirs[0].grad = gradient.clone(), gradient.clone()
        adam.step(0.02)
        reference.step()
    assert torch.allclose(ours["a"], theirs[0].detach(), atol=1e-6)


def test_choices_move_away_from_the_plan_in_seconds(
    whole: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "CHOICE_RATE", 1.0)  # a few steps are enough
    assert searched().reconvene_plan.bits != whole[1].reconvene_plan.bits


@pytest.mark.parametrize("kind", ["frozen", "half"])
def test_networks_that_no_search_trains_are_refused(kind: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(16, 4)
    model, x = (model.half(), x.half()) if kind == "half" else (model.requires_grad_(False), x)
    message = r"0\.weight is in torch\.float16" if kind == "half" else r"every parameter of the network is frozen"
    with pytest.raises(TrainingError, match=message):
        rc.search(model, x[:1], rc.Budget(size="150B"), train=[(x, (x[:, 0] > 0).long())], epochs=2)


def test_a_single_example_left_over_is_not_trained_on() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    batches = [(torch.randn(size, 4), torch.zeros(size, dtype=torch.int64)) for size in (16, 16, 1)]
    small = rc.search(net, torch.randn(2, 4), rc.Budget(macs="2x"), train=batches, epochs=3, warmup=1)
    assert small[0].out_features < 16
