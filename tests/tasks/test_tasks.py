"""A task from outside the package: it trains, evaluates, is exported and verified like one of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reconvene as rc
from reconvene import artifact, workflow
from reconvene.artifact.sections import Sections
from reconvene.data import Dataset, Split, train_batches
from reconvene.data.dataset import statistics
from reconvene.errors import ArtifactError, TrainingError, UnknownNameError, VerificationError
from reconvene.tasks import TASKS, Targets, Task, judge, task_named
from reconvene.training import Distillation, TrainConfig, evaluate_split, read_log, train_model
from reconvene.training.assess import assess, compare_text, predict
from reconvene.utils.schema import convert
from reconvene.workflow.report import read_bench

CONFIG = TrainConfig(batch_size=16, precision="fp32", device="cpu", lr=0.02)


class Corner(Task):
    """Where the bright spot is: two coordinates."""

    name, headline, targets, larger_is_better = "corner", "distance", Targets.VALUES, False

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"distance": (output - target).norm(dim=1)}

    def agreement(self, reference: Tensor, output: Tensor, *, tie: float | None = None) -> Tensor:
        return (reference - output).norm(dim=1) < 0.05


class Net(nn.Module):
    """Images 8x8 to two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.head = nn.Linear(16 * 64, 2)

    def forward(self, x: Tensor) -> Tensor:
        coordinates: Tensor = self.head(self.body(x).flatten(1))
        return coordinates


def spots(count: int = 256, task: Task | None = None) -> Dataset:
    """Noise with one bright pixel; its place in [0, 1] is the target."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    places = torch.randint(0, 8, (count, 2), generator=generator)
    images[torch.arange(count), 0, places[:, 0], places[:, 1]] = 255
    split, targets = count // 4, places.float() / 7
    mean, std = statistics(images)
    parts = Split(images[split:], targets[split:]), Split(images[:split], targets[:split])
    return Dataset("spots", *parts, (), mean, std, task=task or TASKS["corner"])


@pytest.fixture(autouse=True)
def corner() -> Iterator[None]:
    TASKS["corner"] = Corner()
    yield
    del TASKS["corner"]


def test_a_task_from_outside_trains_and_is_evaluated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = Net(), spots()
    before = evaluate_split(model, data).score
    result = train_model(model, data, epochs=4, directory=tmp_path, config=CONFIG)
    assert result.score < before / 2 and set(result.evaluation.metrics) == {"distance"}
    record = read_log(tmp_path)[-1]
    assert record["test_distance"] == result.score and "train_distance" not in record
    assert evaluate_split(model, data).score == pytest.approx(result.score, rel=1e-5)
    # resumed, a finished run returns what it measured
    assert train_model(model, data, epochs=4, directory=tmp_path, config=CONFIG).evaluation == result.evaluation


def test_means_are_over_examples_whatever_the_batches() -> None:
    torch.manual_seed(0)
    model, data = Net(), spots(52)
    whole, parts = evaluate_split(model, data, batch_size=64), evaluate_split(model, data, batch_size=5)
    assert whole.score == pytest.approx(parts.score, rel=1e-6) and whole.loss == pytest.approx(parts.loss, rel=1e-6)
    with torch.no_grad():
        outputs = model.eval()(data.normalise(data.test.images))
    assert whole.score == pytest.approx(float((outputs - data.test.targets).norm(dim=1).mean()), rel=1e-6)


def test_the_whole_way_with_a_task_from_outside(tmp_path: Path) -> None:
    data, source = spots(), {"address": "test_tasks:Net", "input_shape": [1, 8, 8]}
    torch.manual_seed(0)
    small = rc.prune(Net(), torch.randn(2, 1, 8, 8), rc.Budget(params="2x"))
    artifact.save(small, tmp_path, source=source)
    artifact.save(artifact.dense(tmp_path, allow_import=True), tmp_path / "dense")
    lesson = workflow.Lesson()
    trained = workflow.train(tmp_path, data, epochs=3, config=CONFIG, lesson=lesson, allow_import=True)
    assert trained.task == "corner" and "distance" in str(trained) and trained.teacher is not None
    again = workflow.train(tmp_path, data, epochs=3, config=CONFIG, lesson=lesson, allow_import=True)
    assert again == trained, "what the artifact says is what came out"
    said = artifact.Artifact.open(tmp_path)
    assert said.preprocessing is not None and said.preprocessing.task == "corner"
    assert said.training is not None and said.training.metrics == {"distance": trained.score}
    assessments = workflow.evaluate(tmp_path, data, corruptions=True, allow_import=True)
    assert 0 < assessments["pruned"].agreement < 1 and "noise, strength 1" in compare_text(assessments)
    exported = workflow.export_artifact(tmp_path, dataset=data, allow_import=True)["pruned"][0]
    assert exported.verification.agreement == 1.0, "agreement is asked for, and is the task's own"
    page = workflow.report(tmp_path).read_text()
    assert "Beyond distance" in page and "Test distance" in page


def test_a_distilled_student_follows_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, teacher = spots(), Net()
    wanted, errors = predict(teacher, data)[0], []
    for weight in (0.0, 1.0):
        torch.manual_seed(1)
        student, folder = Net(), tmp_path / str(weight)
        lesson = Distillation(teacher, weight=weight)
        train_model(student, data, epochs=2, directory=folder, config=CONFIG, distillation=lesson)
        errors.append(float(F.mse_loss(predict(student, data)[0], wanted)))
    assert errors[1] < errors[0] / 2


def test_int8_of_numbers_is_held_to_noise_and_not_to_classes(tmp_path: Path) -> None:
    """The largest of two coordinates is no class: where they are alike it changes at the least rounding."""
    torch.manual_seed(0)
    model, data = Net().eval(), spots(task=task_named("regression"))
    batches = [(data.normalise(data.train.images[:64]), data.train.targets[:64])]
    options = {"example_inputs": batches[0][0][:1], "quantize": "int8", "calibration": batches}
    kept = rc.export(model, tmp_path, task="regression", **options)
    assert kept.verification.agreement is None and kept.verification.quality is None
    strict = rc.export(model, tmp_path, task="corner", **options).verification
    assert strict.agreement is not None and 0 <= strict.agreement <= 1


def test_a_file_that_disagrees_as_the_task_sees_it_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(8, 1, 8, 8)
    path = rc.export(model, tmp_path, example_inputs=x).path
    with torch.no_grad():
        model.head.bias += 0.1
    with pytest.raises(VerificationError, match="predicts otherwise"):
        rc.deploy.verify_export(model, path, example_inputs=x, task="corner", tolerance=9)


def test_a_task_is_never_guessed() -> None:
    numbers = torch.randn(4, 2)
    assert judge(numbers, None, None) is None and judge(numbers, torch.rand(4, 2), None) is None
    assert judge(numbers, torch.tensor([0, 1, 1, 0]), None) is TASKS["classification"]
    assert judge(numbers, torch.tensor([0, 1, 1, 0]), TASKS["corner"]) is TASKS["corner"]
    with pytest.raises(UnknownNameError, match="corner"):
        task_named("depth")


def test_a_task_that_is_not_registered_is_refused_before_training(tmp_path: Path) -> None:
    artifact.save(Net(), tmp_path, source={"address": "test_tasks:Net", "input_shape": [1, 8, 8]})
    stranger = Corner()
    stranger.name = "stranger"
    with pytest.raises(UnknownNameError, match="stranger"):
        workflow.train(tmp_path, spots(task=stranger), epochs=1, config=CONFIG, allow_import=True)


def test_a_headline_must_be_measured(tmp_path: Path) -> None:
    wrong = Corner()
    wrong.headline = "error"
    with pytest.raises(TrainingError, match=r"compared by 'error', but measures distance"):
        train_model(Net(), spots(task=wrong), epochs=1, directory=tmp_path, config=CONFIG)


def test_what_earlier_releases_wrote_is_read() -> None:
    record = {
        **{"epochs": 3, "dataset": "digits", "accuracy": 0.875, "loss": 0.5, "per_class": {"a": 0.25}, "seconds": 1.0},
        **{"asked": {}, "teacher": {"model": "resnet56", "accuracy": 0.9375}},
    }
    training = convert(Sections, {"training": record}, source="a manifest", error=ArtifactError).training
    assert training is not None and training.teacher is not None and training.teacher.score == 0.9375
    assert training.score == 0.875 and training.parts == {"a": 0.25} and training.task == "classification"
    assert "accuracy 87.50%" in str(training) and "accuracy 93.75%" in str(training)
    export = {"file": "model.onnx", "bytes": 9, "verification": {"accuracy": 0.75, "reference_accuracy": 0.875}}
    (read,) = convert(Sections, {"exports": [export]}, source="a manifest", error=ArtifactError).exports
    assert read.verification == {"quality": 0.75, "reference_quality": 0.875}


def test_a_benchmark_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps({"rows": [{"variant": "dense", "accuracy": 0.5}]}))
    assert read_bench(tmp_path) == {"rows": [{"variant": "dense", "quality": 0.5, "measure": "accuracy"}]}


class Shift(Corner):
    """Targets that are pictures: the image itself."""

    targets = Targets.PICTURES


def test_pictures_are_moved_as_their_images() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 8, 8), generator=generator, dtype=torch.uint8)
    mean, std = statistics(images)
    split = Split(images, images.clone())
    data = Dataset("same", split, split, (), mean, std, rc.data.Augmentation(2, flip=True), task=Shift())
    batches = list(train_batches(data, batch_size=8, seed=0, epoch=0))
    assert all(torch.allclose(x, data.normalise(y), atol=1e-5) for x, y in batches)
    plain = {tuple(image.flatten().tolist()) for image in images}
    assert any(tuple(y.flatten().tolist()) not in plain for _, batch in batches for y in batch), "something moves"
    # edges are repeated: no value comes in that the image does not hold
    dark = Split(images.clamp_min(1), images.clamp_min(1))
    moved = Dataset("dark", dark, dark, (), mean, std, rc.data.Augmentation(2), task=Shift())
    assert min(int(y.min()) for _, y in train_batches(moved, batch_size=8, seed=0, epoch=0)) > 0


def test_assessing_twice_says_the_same() -> None:
    torch.manual_seed(0)
    model, data = Net(), spots()
    assessment = assess(model, data, dense=predict(model, data))
    assert assessment.agreement == 1.0
    assert data.task.read_assessment(json.loads(json.dumps(assessment.to_dict()))) == assessment


def test_pictures_with_their_dimensions_in_another_order_are_refused() -> None:
    task, target = task_named("image-to-image"), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    task.check(torch.zeros(2, 3, 8, 8), target, classes=(), data="pictures")
    with pytest.raises(TrainingError, match=r"returns \[2, 8, 8, 3\] for targets \[2, 3, 8, 8\]"):
        task.check(torch.zeros(2, 8, 8, 3), target, classes=(), data="pictures")
    values = task_named("regression")
    values.check(torch.zeros(4, 1), torch.zeros(4), classes=(), data="numbers")
    with pytest.raises(TrainingError):
        values.check(torch.zeros(4, 2, 3), torch.zeros(4, 3, 2), classes=(), data="numbers")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_pictures_of_any_number_of_channels_are_drawn(channels: int) -> None:
    target = torch.randint(0, 256, (channels, 4, 6), dtype=torch.uint8)
    drawn = torch.from_numpy(TASKS["image-to-image"].draw(target, is_target=True)).permute(2, 0, 1)
    expected = target.double().mean(0).round() if channels == 2 else target[:3].double()
    assert torch.equal(drawn.double(), expected.expand(3, 4, 6))


class Answering(nn.Module):
    """Answers the same for every image: numbers, or scores that are the same at every pixel."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.answer.expand(len(x), *self.answer.shape)
        return answers


def of_task(name: str, targets: Tensor) -> Dataset:
    """Four images of 4x4 with these targets, as both splits."""
    data = spots(8, TASKS[name])
    split = Split(data.train.images[:4], targets)
    return replace(data, train=split, test=split, classes=["ground", "tree"] if name == "segmentation" else [])


def test_a_network_that_answers_the_mean_is_no_trained_one() -> None:
    targets = torch.tensor([[2001.0, 0.0], [2003.0, 1.0], [2002.0, 5.0], [2002.0, 2.0]])
    spread = float(targets.var(0, unbiased=False).mean())
    for shift, warned in ((0.0, True), (1.0, True), (None, False)):
        network = Answering(targets.mean(0) + (shift or 0.0)) if shift is not None else Recalling(targets)
        found = evaluate_split(network, of_task("regression", targets), batch_size=3)
        assert (found.warning is not None) == warned
        assert not warned or f"({spread:.4g})" in str(found.warning)


class Recalling(nn.Module):
    """Knows the targets of the images in their order."""

    def __init__(self, targets: Tensor) -> None:
        super().__init__()
        self.targets = list(targets.split(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.targets.pop(0) for _ in x])


def test_one_class_for_every_pixel_is_warned_of() -> None:
    maps = torch.zeros(4, 8, 8, dtype=torch.int32)
    maps[0, :2] = 1
    scores = torch.zeros(2, 8, 8)
    scores[0] = 1.0
    found = evaluate_split(Answering(scores), of_task("segmentation", maps))
    assert found.warning == "the network answers class 0 for every pixel, where the maps have it for 93.75%"
    scores[1, 0, 0] = 2.0
    assert evaluate_split(Answering(scores), of_task("segmentation", maps)).warning is None
    scores[1, 0, 0] = 0.0
    assert evaluate_split(Answering(scores), of_task("segmentation", torch.zeros_like(maps))).warning is None
