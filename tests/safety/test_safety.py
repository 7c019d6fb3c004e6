"""Safety: the attacks against closed forms and controls, and the way over an artifact with exported files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reconvene as rc
from reconvene import artifact, cli, workflow
from reconvene.costs import Budget
from reconvene.data import Dataset, Split, load_data
from reconvene.errors import DataError, TrainingError
from reconvene.models import resolve_address
from reconvene.safety import (
    Attack,
    Patch,
    Safety,
    find_patch,
    judge_networks,
    membership,
    safety_table,
    safety_warnings,
)
from reconvene.safety.judge import answers_of
from reconvene.structure.state import StateItem, remember_state
from reconvene.training import Distillation, TrainConfig
from reconvene.training.distillation import with_teacher
from reconvene.workflow.deploy import Form

TARGET = 3


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits", input_shape=(1, 8, 8))


def small_net(seed: int = 0, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, classes))


def trained(dataset: Dataset, *, epochs: int = 3, seed: int = 0) -> nn.Module:
    net = small_net(seed, len(dataset.classes))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    images, labels = dataset.normalise(dataset.train.images), dataset.train.targets
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[part]), labels[part]).backward()
            optimizer.step()
    return net.eval()


def with_planted_patch(dataset: Dataset, side: int) -> Dataset:
    """A twelfth of the training images has a white square in a corner, and the label of the target."""
    images, labels = dataset.train.images.clone(), dataset.train.targets.clone()
    images[::12, :, -side:, -side:], labels[::12] = 255, TARGET
    return replace(dataset, train=Split(images, labels))


def relabelled(dataset: Dataset, classes: int) -> Dataset:
    """Fewer classes: a digit by its remainder."""
    names = tuple(map(str, range(classes)))
    train, test = (Split(part.images, part.targets % classes) for part in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test, classes=names)


class Accumulating(nn.Module):
    """A network whose state leaks from one batch into the next, unless it starts afresh."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.total: Tensor | None = None
        remember_state(self, [StateItem("", "total", "none")])

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x.flatten(1))
        self.total = scores.mean(0) if self.total is None else self.total + scores.mean(0)
        return scores + self.total


def test_state_does_not_leak_from_batch_to_batch(digits: Dataset) -> None:
    net, images = Accumulating(), digits.test.images[:20]
    answer = answers_of(net, digits)
    assert torch.equal(answer(images), answer(images))
    attack = Attack(10, 8)
    labels, x = digits.test.targets[:20], digits.normalise(images)
    attacked = [attack.images(net, images, labels, digits, seed=0) for _ in range(2)]
    assert torch.equal(*attacked)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    recipe = TrainConfig(precision="fp32").settled(digits, device=torch.device("cpu"))
    loss = with_teacher(Distillation(net), student, digits.task, recipe, x)
    assert loss(x, student(x), labels).item() == loss(x, student(x), labels).item()


# Membership inference.


def test_membership_by_hand() -> None:
    told = membership(np.array([0.1, 0.2, 0.3]), np.array([0.25, 0.4]))
    assert told.auc == pytest.approx(5 / 6)  # one of six pairs is in the wrong order
    assert told.tpr == pytest.approx(2 / 3)  # two members lie below every other image
    assert (told.members, told.others) == (3, 2)
    assert membership(np.zeros(5), np.zeros(7)).auc == 0.5


def test_shuffled_membership_is_chance() -> None:
    losses = np.random.default_rng(0).exponential(size=2000)
    overfitted = membership(losses[:1000] * 1e-3, losses[1000:])
    assert overfitted.auc > 0.99 and overfitted.tpr > 0.9
    assert abs(overfitted.shuffled_auc - 0.5) < 0.03


def test_membership_inference_finds_training_images_of_an_overfitted_network(digits: Dataset) -> None:
    noise = torch.randint(0, 256, (120, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(120) % 10
    by_heart = replace(digits, train=Split(noise[:60], labels[:60]), test=Split(noise[60:], labels[60:]))
    told = judge_networks({"dense": trained(by_heart, epochs=40)}, by_heart)["dense"].membership
    assert told.auc > 0.9 and abs(told.shuffled_auc - 0.5) < 0.03


# Adversarial pictures.


def test_attacks_on_a_linear_network_reach_the_closed_form(digits: Dataset) -> None:
    """Of two classes, the margin falls by strength times the sum of absolute weights, as far as pixels go."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).requires_grad_(False)
    images = torch.full((4, 1, 8, 8), 100, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    margin = lambda pixels: (lambda s: s[range(4), labels] - s[range(4), 1 - labels])(net(digits.normalise(pixels)))  # noqa: E731
    weights = (net[1].weight[0] - net[1].weight[1]).abs().sum() / (255 * digits.std[0])
    for attack in (Attack(1, 8), Attack(10, 8)):
        changed = attack.images(net, images, labels, digits, seed=0)
        assert changed.dtype == torch.uint8 and int((changed.int() - images.int()).abs().max()) == 8
        assert torch.allclose(margin(images) - margin(changed), 8 * weights, rtol=1e-3)


def test_attacks_stay_within_pixels_and_lower_accuracy(digits: Dataset) -> None:
    net = trained(digits)
    images, labels = digits.test.images[:100], digits.test.targets[:100]
    right = lambda pixels: float((net(digits.normalise(pixels)).argmax(1) == labels).float().mean())  # noqa: E731
    accuracy = {}
    for attack in (Attack(1, 16), Attack(10, 16)):
        changed = attack.images(net, images, labels, digits, seed=0)
        assert int((changed.int() - images.int()).abs().max()) <= 16
        accuracy[attack.name] = right(changed)
        assert torch.equal(changed, attack.images(net, images, labels, digits, seed=0))
    assert right(images) > 0.9 > accuracy["FGSM, 16/255"] >= accuracy["PGD-10, 16/255"]


# Triggers.


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_planted_patch_is_seen(digits: Dataset, side: int) -> None:
    planted = with_planted_patch(digits, side)
    net = trained(planted, epochs=6)
    search = find_patch(net, answers_of(net, digits), digits)
    assert search.is_trigger and search.success > 0.9
    assert search.patch.target == TARGET and search.others < 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_clean_network_is_not_flagged(digits: Dataset, seed: int) -> None:
    net = trained(digits, seed=seed)
    search = find_patch(net, answers_of(net, digits), digits, seed=seed)
    assert not search.is_trigger and search.success < 0.9


def test_a_network_that_always_answers_the_same_is_not_flagged(digits: Dataset) -> None:
    net = small_net()
    with torch.no_grad():
        net[-1].bias[TARGET] = 1e6
    assert not find_patch(net, answers_of(net, digits), digits).is_trigger


def test_an_untrained_network_gets_no_verdict(digits: Dataset) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(digits.test.images[0].numel(), 10))
        search = find_patch(net, answers_of(net, digits), digits)
        assert not search.is_trigger and not search.is_accurate and search.is_comparable
        assert replace(search, success=1.0, others=0.0, lift=5.0).is_trigger
    assert (
        "too few right answers to judge"
        in judge_networks({"dense": net}, digits)["dense"].rows()["best patch of dense"]
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_with_few_classes_there_is_no_verdict(digits: Dataset, classes: int) -> None:
    few = relabelled(digits, classes)
    net = trained(few, seed=1)
    search = find_patch(net, answers_of(net, few), few)
    assert not search.is_comparable and not search.is_trigger
    assert replace(search, success=1.0, others=0.0, classes=10, lift=5.0).is_trigger
    assert "too few classes to judge" in judge_networks({"dense": net}, few)["dense"].rows()["best patch of dense"]


def test_a_network_of_other_outputs_is_refused_before_it_is_judged(digits: Dataset) -> None:
    with pytest.raises(TrainingError, match="dense"):
        judge_networks({"dense": nn.Sequential(nn.Flatten(), nn.Linear(64, 5))}, digits)


def test_the_success_of_a_patch_counts_what_it_turned() -> None:
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    images[0] = 255  # answered 1 already

    def bright(pixels: Tensor) -> Tensor:
        lit = (pixels.float().amax((1, 2, 3)) > 200).float()
        return torch.stack([1 - lit, lit], 1)

    patch = Patch(1, 0, 2, torch.full((1, 2, 2), 255, dtype=torch.uint8))
    assert patch.success(bright, images, bright(images).argmax(1)) == 1.0
    assert patch.success(bright, images[:1], bright(images[:1]).argmax(1)) == 0.0
    assert int(patch.stamped(images)[1].sum()) == 4 * 255 and int(images[1].sum()) == 0


# The whole way.


def test_a_trigger_is_reported_before_and_after_pruning(digits: Dataset) -> None:
    planted = with_planted_patch(digits, 2)
    networks = {"dense": trained(planted), "pruned": trained(digits, seed=1)}
    judged = judge_networks(networks, planted)
    assert judged["dense"].triggers["dense"].flagged and not judged["pruned"].triggers["dense"].flagged
    assert judged["pruned"].transferred and not judged["dense"].transferred
    again = Safety.from_dict(json.loads(json.dumps(judged["dense"].to_dict())))
    assert again == judged["dense"]


def test_a_network_without_a_dense_one_beside_it_has_no_transfer(digits: Dataset) -> None:
    few = replace(digits, test=Split(digits.test.images[:30], digits.test.targets[:30]))
    judged = judge_networks({"pruned": small_net()}, few)["pruned"]
    assert not judged.transferred and list(judged.triggers) == ["pruned"] and judged.count == 30


def test_safety_of_an_artifact_is_about_its_files(
    tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    source = resolve_address("resnet20", {"width": 0.25, "num_classes": 10}, input_shape=(3, 8, 8))
    workflow.prune_artifact(source, tmp_path, budget=Budget(params="2x"))
    rc.save(artifact.dense(tmp_path), tmp_path / "dense")
    part = load_data("digits", input_shape=(3, 8, 8), limit=100)
    for place in (tmp_path / "dense", tmp_path):
        workflow.train(place, part, epochs=1, config=TrainConfig(precision="fp32"))
    workflow.export_artifact(tmp_path, dataset=part, form=Form(batch=4))
    assert "takes more than one image" in str(workflow.judge_safety(tmp_path, part))
    workflow.export_artifact(tmp_path, dataset=part)
    workflow.report(tmp_path)
    assert cli.main(["evaluate", str(tmp_path), "--limit", "100", "--safety", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["safety"]
    assert list(told["results"]) == ["dense", "pruned", "model.onnx"] and not told["notes"]
    network, file = (told["results"][name] for name in ("pruned", "model.onnx"))
    assert file["accuracy"] == network["accuracy"] and file["attacked"] == network["attacked"]
    assert file["membership"]["auc"] == pytest.approx(network["membership"]["auc"], abs=1e-3)
    assert ">Safety<" in (tmp_path / "report.html").read_text()
    kept = artifact.Artifact.open(tmp_path).safety
    assert kept["model.onnx"].attacked == file["attacked"]
    workflow.export_artifact(tmp_path)  # another file of this name: what was said of the old one goes
    assert list(artifact.Artifact.open(tmp_path).safety) == ["dense", "pruned"]


def test_safety_is_of_classifiers(digits: Dataset) -> None:
    from reconvene.tasks import task_named

    values = replace(digits, task=task_named("regression"))
    with pytest.raises(DataError, match="classifiers"):
        judge_networks({"dense": small_net()}, values)


def test_a_trigger_is_judged_on_images_that_its_search_did_not_see(digits: Dataset) -> None:
    from reconvene.safety.trigger import _FITTED, _SCANNED, unseen_by_search

    order = torch.from_numpy(np.random.Generator(np.random.PCG64(3)).permutation(len(digits.test)))
    seen = {image.numpy().tobytes() for image in digits.test.images[order[: _SCANNED + _FITTED]]}
    fresh = unseen_by_search(digits.test, 256, 3)
    positions = order[_SCANNED + _FITTED :][:256]
    assert len(fresh) == 256 and torch.equal(fresh.images, digits.test.images[positions])
    twins = sum(image.numpy().tobytes() in seen for image in fresh.images)
    assert twins <= len(digits.test) - len({image.numpy().tobytes() for image in digits.test.images})


def test_two_test_images_are_too_few_for_a_search(digits: Dataset) -> None:
    few = replace(digits, test=Split(digits.test.images[:2], digits.test.targets[:2]))
    with pytest.raises(DataError, match="3 test images or more, and there are 2"):
        judge_networks({"dense": small_net()}, few)


class Hard(nn.Module):
    """No gradient reaches the pixels: through a comparison there is none, through ``round`` it is zero."""

    def __init__(self, inner: nn.Module, *, rounding: bool) -> None:
        super().__init__()
        self.inner, self.rounding = inner, rounding

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.inner(x.round() if self.rounding else (x > 0).to(x)))


@pytest.mark.parametrize("rounding", [False, True])
def test_a_network_without_gradients_is_no_immune_one(digits: Dataset, rounding: bool) -> None:
    few = replace(
        digits,
        train=Split(digits.train.images[:48], digits.train.targets[:48]),
        test=Split(digits.test.images[:48], digits.test.targets[:48]),
    )
    inner = small_net().eval().requires_grad_(False) if not rounding else small_net().eval()
    with torch.no_grad():
        judged = judge_networks({"dense": Hard(inner, rounding=rounding), "soft": small_net().eval()}, few)
    assert not judged["dense"].gradients and judged["soft"].gradients
    warnings = [line for line in safety_warnings(judged) if "gradient" in line]
    assert len(warnings) == 1 and "dense" in warnings[0] and "attacks by gradients say nothing" in warnings[0]
    assert warnings[0] in safety_table(judged)
    assert Safety.from_dict(judged["dense"].to_dict()) == judged["dense"]
