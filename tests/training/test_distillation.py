"""Learning from a teacher: the formula, the channels that were kept, and a run that is as exact as any other."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene import artifact, workflow
from reconvene.data import Dataset, load_data
from reconvene.errors import TrainingError
from reconvene.surgery import Plan
from reconvene.surgery.compose import compose_plans
from reconvene.tasks.scores import soft_loss
from reconvene.training import Distillation, read_log, train_model
from reconvene.training.config import Settled
from reconvene.training.distillation import Hint, with_teacher
from reconvene.training.run import TrainingRun
from reconvene.utils.progress import notes_to
from support.cli_calls import answer, trouble
from support.training_checks import bytes_of, interrupt_at, same
from support.training_kills import CONFIG, EPOCHS, digits, net

CPU = torch.device("cpu")
FP32 = replace(CONFIG, precision="fp32")


def pair() -> tuple[nn.Module, nn.Module, Plan]:
    """A dense network, what pruning makes of it (its weights kept, the removed channels' biases zero), and the plan."""
    dense = net()
    plan = rc.plan(dense, torch.randn(2, 1, 8, 8), rc.Budget(params="2x"), criterion="magnitude", round_to=1)
    assert any(row.width < row.dense for row in plan.rows)
    return dense, plan.apply(dense), plan


def settled(**options: Any) -> Settled:
    return replace(FP32, **options).settled(digits(), device=CPU)


def test_the_soft_loss_is_hintons() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, wanted = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = ((values / 3).softmax(1) for values in (wanted, scores))
    by_hand = 9 * sum((p[i] * (p[i] / q[i]).log()).sum() for i in range(5)) / 5
    torch.testing.assert_close(soft_loss(scores, wanted, 3.0), by_hand)
    assert soft_loss(wanted, wanted, 3.0).abs() < 1e-12
    # Hinton et al., section 2.1: at high temperature the gradient is that of matching centred scores, T cancelling out
    scores.requires_grad_()
    soft_loss(scores, wanted, 1e4).backward()
    centred = (scores - scores.mean(1, keepdim=True)) - (wanted - wanted.mean(1, keepdim=True))
    torch.testing.assert_close(scores.grad, (centred / (5 * 4)).detach(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_labels_and_teacher_share_the_loss(share: float) -> None:
    teacher, student = net(), net()
    config = settled(label_smoothing=0.1)
    with torch.no_grad():
        teacher[-1].bias.add_(torch.arange(10.0))
    images, labels = torch.randn(6, 1, 8, 8), torch.arange(6)
    scores = student(images)
    lesson = Distillation(teacher, temperature=2.0, weight=share)
    loss = with_teacher(lesson, student, digits().task, config, images)
    plain = nn.functional.cross_entropy(scores, labels, label_smoothing=0.1)
    taught = soft_loss(scores, teacher.eval()(images), 2.0)
    torch.testing.assert_close(loss(images, scores, labels), (1 - share) * plain + share * taught)


def test_hints_compare_the_channels_that_were_kept() -> None:
    """A pruned network whose removed channels did nothing has the teacher's features: then the hint is nothing."""
    dense, _, plan = pair()
    with torch.no_grad():  # make the removed channels silent, so that keeping the slices changes nothing
        dense.load_state_dict(plan.mask(dense).state_dict())
    student = plan.apply(dense)
    hint = Hint(dense.eval(), student.train(), plan)
    assert set(hint.kept) == {"1", "4"}, "both batch norms"
    assert any(len(kept) < dense.get_submodule(name).num_features for name, kept in hint.kept.items())
    for norm in (*dense.modules(), *student.modules()):
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    x = torch.randn(64, 1, 8, 8)
    dense.train()(x), dense.eval()  # its statistics become those of this batch, which the student in training uses
    hint.teacher_features.clear(), hint.student_features.clear()
    dense(x), student(x)
    assert hint.loss() < 1e-3
    hint.kept = {name: kept.flip(0) for name, kept in hint.kept.items()}
    dense(x), student(x)
    assert hint.loss() > 0.1, "other channels are other features"
    assert hint.student_features == {} and hint.teacher_features == {}, "nothing is kept from one step to the next"


@pytest.mark.parametrize("inplace", [False, True])
def test_features_are_those_before_an_activation_that_writes_into_them(inplace: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=inplace))
    teacher, student, images = copy.deepcopy(net).eval(), copy.deepcopy(net).train(), torch.randn(8, 3, 6, 6)
    hint = Hint(teacher, student, None)
    features = student[1](student[0](images)), teacher[1](teacher[0](images))
    hint.student_features.clear(), hint.teacher_features.clear()
    student(images), teacher(images)
    expected = (features[0] - features[1]).square().mean() / features[1].square().mean()
    assert float(hint.loss()) == pytest.approx(float(expected), rel=1e-5)


def test_a_layer_that_stays_in_eval_mode_has_no_features_to_match() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    teacher, student, images = copy.deepcopy(net).eval(), copy.deepcopy(net).train(), torch.randn(8, 3, 6, 6)
    hint = Hint(teacher, student, None)
    student[1].eval()
    student(images), teacher(images)
    with pytest.raises(TrainingError, match=r"1 runs 0 times in a step of the student .* Take features=0"):
        hint.loss()


def test_a_teacher_with_no_say_changes_no_bit(tmp_path: Path) -> None:
    teacher, alone, taught = net(), net(), net()
    train_model(alone, digits(), epochs=1, directory=tmp_path / "alone", config=FP32)
    lesson = Distillation(teacher, weight=0.0)
    train_model(taught, digits(), epochs=1, directory=tmp_path / "taught", config=FP32, distillation=lesson)
    assert same(alone, taught)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_exact_resumes_and_leaves_the_teacher_alone(
    precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student, plan = pair()
    teacher.train()
    before, modes = bytes_of(teacher), [module.training for module in teacher.modules()]
    config = replace(CONFIG, precision=precision)
    lesson = Distillation(teacher, weight=0.7, features=0.2, plan=plan)
    whole, again, parts, plain = (copy.deepcopy(student) for _ in range(4))
    options: dict[str, Any] = {"epochs": EPOCHS, "config": config}
    train_model(whole, digits(), directory=tmp_path / "whole", distillation=lesson, **options)
    torch.rand(3)
    train_model(again, digits(), directory=tmp_path / "again", distillation=lesson, **options)
    assert bytes_of(whole) == bytes_of(again)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 13)
        with pytest.raises(KeyboardInterrupt):
            train_model(parts, digits(), directory=tmp_path / "parts", distillation=lesson, **options)
    assert train_model(parts, digits(), directory=tmp_path / "parts", distillation=lesson, **options).resumed_at == 13
    assert bytes_of(parts) == bytes_of(whole)
    train_model(plain, digits(), directory=tmp_path / "plain", **options)
    assert bytes_of(plain) != bytes_of(whole), "the teacher is heard"
    assert bytes_of(teacher) == before and [module.training for module in teacher.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert not any(module._forward_hooks for model in (teacher, whole) for module in model.modules())
    assert read_log(tmp_path / "whole")[0]["distillation"] == lesson.to_dict()


def test_another_teacher_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, other = net(), net()
    with torch.no_grad():
        other[0].weight.mul_(2)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_model(net(), digits(), epochs=1, directory=tmp_path, config=FP32, distillation=Distillation(teacher))
    for changed in (Distillation(other), Distillation(teacher, temperature=2.0), None):
        with pytest.raises(TrainingError, match="distillation is"):
            train_model(net(), digits(), epochs=1, directory=tmp_path, config=FP32, distillation=changed)


def test_it_learns_what_only_the_teacher_says(tmp_path: Path) -> None:
    """Labels are shuffled, the teacher knows better: with all the weight on it, the student learns the digits."""
    data = load_data("digits", input_shape=(1, 8, 8))
    teacher = net()
    train_model(teacher, data, epochs=6, directory=tmp_path / "teacher", config=replace(FP32, augment="none"))
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    wrong = replace(data, train=replace(data.train, targets=data.train.targets[order]))
    options: dict[str, Any] = {"epochs": 4, "config": replace(FP32, augment="none")}
    alone = train_model(net(), wrong, directory=tmp_path / "alone", **options)
    lesson = Distillation(teacher, weight=1.0)
    taught = train_model(net(), wrong, directory=tmp_path / "taught", distillation=lesson, **options)
    assert alone.score < 0.4 < 0.8 < taught.score


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"weight": 1.5}, r"weight must be in \[0, 1\]"),
        ({"features": -1.0}, "features must not be negative"),
        ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 7))}, "the teacher has 7 outputs but digits has 10"),
        ({"teacher": nn.Sequential(nn.Conv2d(3, 8, 3))}, "the teacher does not run on digits's images"),
        ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "features": 1.0}, "no layer of the student"),
    ],
)
def test_a_lesson_that_cannot_work_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    lesson = Distillation(**{"teacher": net(), **options})
    with pytest.raises(TrainingError, match=message):
        train_model(net(), digits(), epochs=1, directory=tmp_path / "out", config=FP32, distillation=lesson)
    assert not (tmp_path / "out").exists()


# ---- artifacts and the command line ----

SMALL = ["resnet20", "--model-arg", "width=0.25", "--params", "2x"]
FAST = ["--limit", "60", "--epochs", "1", "--batch-size", "20"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_data("digits", input_shape=(3, 32, 32), limit=60)


def test_the_dense_network_is_the_teacher_by_default(
    data: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from reconvene.cli import main

    folder = tmp_path / "a"
    assert main(["prune", *SMALL, "-o", str(folder)]) == 0
    assert "temperature" in trouble(capfd, "train", str(folder), *FAST, "--distill", "--temperature", "0")
    assert not (folder / "dense").exists(), "nobody is trained for a lesson that cannot be given"
    found = answer(capfd, "train", str(folder), *FAST, "--distill", "--feature-weight", "0.1")
    dense = artifact.Artifact.open(folder / "dense").training
    assert dense is not None and found["teacher"] == {"model": "resnet20", "score": dense.score}
    assert found["asked"]["distillation"]["features"] == 0.1
    monkeypatch.setattr(TrainingRun, "_step", lambda *a: pytest.fail("trained again"))
    assert answer(capfd, "train", str(folder), *FAST, "--distill", "--feature-weight", "0.1") == found
    for other in ([], ["--distill"]):
        assert "with other settings: distillation is" in trouble(capfd, "train", str(folder), *FAST, *other)
    assert "cannot teach itself" in trouble(capfd, "train", str(folder), *FAST, "--again", "--teacher", str(folder))


def test_run_lets_the_dense_network_teach_the_pruned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconvene.cli import main

    lessons = {}

    def train_nobody(place: Path, *_: Any, lesson: workflow.Lesson | None, **__: Any) -> SimpleNamespace:
        lessons[place.name] = lesson
        if len(lessons) == 2:
            raise KeyboardInterrupt
        return SimpleNamespace(recalibration=None, warning=None)

    monkeypatch.setattr(sys.modules["reconvene.workflow.run"], "train", train_nobody)
    asked = ["--distill", "--temperature", "2", "--distill-weight", "0.9", "--feature-weight", "0.5"]
    assert main(["run", *SMALL, *FAST, *asked, "-o", str(tmp_path / "a")]) == 130
    assert lessons == {"dense": None, "a": workflow.Lesson(None, 2.0, 0.9, 0.5)}


def test_a_teacher_that_is_named_teaches(data: Dataset, tmp_path: Path) -> None:
    from reconvene.models import ModelSource

    teacher, student = tmp_path / "teacher", tmp_path / "student"
    for folder, width in ((teacher, 0.5), (student, 0.25)):
        artifact.save(ModelSource("resnet20", {"width": width}, (3, 32, 32)).build(), folder)
    with pytest.raises(TrainingError, match="--teacher DIR"):
        workflow.train(student, data, epochs=1, lesson=workflow.Lesson())
    said: list[str] = []
    with notes_to(said.append):
        found = workflow.train(student, data, epochs=1, lesson=workflow.Lesson(teacher))
    assert any("has no record of a training: an untrained one teaches noise" in text for text in said)
    assert found.teacher is not None and "taught by resnet20" in str(found)
    assert not (student / "dense").exists()


def test_features_of_a_teacher_that_was_pruned_itself_are_those_of_the_same_channels() -> None:
    dense, x = net(), torch.randn(2, 1, 8, 8)
    for parameter in dense.parameters():
        torch.nn.init.normal_(parameter)  # no two channels are alike
    first = rc.plan(dense, x, rc.Budget(params="1.3x"), criterion="magnitude", round_to=1)
    teacher = first.apply(dense)
    second = rc.plan(teacher, x, rc.Budget(params="1.5x"), criterion="magnitude", round_to=1)
    student, both = second.apply(teacher), compose_plans(dense, x, first, second)
    hint = Hint(teacher, student, both, first)
    assert hint.kept
    narrower = 0
    for name, kept in hint.kept.items():
        small, large = (network.get_submodule(name).weight for network in (student, teacher))
        assert torch.equal(small, large[kept])
        narrower += len(small) < len(large)
    assert narrower
