"""Recipes: a mistake has its line, stages come in any order, and what was stopped ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import reconvene as rc
from reconvene import devices
from reconvene.artifact import Artifact
from reconvene.data import Normalisation, load_data
from reconvene.errors import BudgetError, DeviceError, RecipeError
from reconvene.models import MODELS, ModelSource
from reconvene.surgery.operations import find_sites
from reconvene.training.run import TrainingRun
from reconvene.utils.progress import Stage, listened_by, notes_to
from reconvene.workflow.compression import Compressed, read_recipe_file
from support import device_fakes

NET = """
import torch
from torch import nn

def make(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, num_classes),
    )
"""
TIMED = ("timings.json", "latencies.json", "train.jsonl", "stages.svg")
"""Files that say how long something took."""
WHOLE = (
    {"train": {"epochs": 2}},
    {"prune": {"macs": "2x"}},
    {"distil": {"epochs": 1, "features": 0.5}},
    {"quantise": {}},
    {"export": {"agreement": 0.5, "accuracy_drop": 0.2}},
)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    (tmp_path / "net.py").write_text(NET)

    def make(*stages: Any, **options: Any) -> dict[str, Any]:
        top = {"model": f"{tmp_path / 'net.py'}:make", "input": [1, 8, 8], "limit": 200}
        return {**top, "stages": list(stages), **options}

    return make


def carry_out(recipe: dict[str, Any], folder: Path, **options: Any) -> Compressed:
    return rc.compress(recipe, folder, allow_import=True, **options)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TIMED)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Stopped(BaseException):
    """As a Ctrl-C: nothing on the way takes it for a failure that it can go on after."""


class Stopping:
    """Hears of all work; the ``count``-th piece of it stops as it begins."""

    def __init__(self, count: int) -> None:
        self.count, self.seen = count, 0

    def begin(self, work: Stage) -> None:
        self.seen += 1
        if self.seen == self.count:
            raise Stopped(work.description)

    def advance(self, work: Stage) -> None: ...

    def end(self, work: Stage, *, summary: bool) -> None: ...

    def note(self, text: str) -> None: ...


@pytest.mark.slow
def test_a_recipe_goes_through_its_stages(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    whole = carry_out(recipe(*WHOLE), tmp_path / "whole")
    assert [stage.stage for stage in whole.stages] == ["source", "train", "prune", "distil", "quantise", "export"]
    assert [stage.precision for stage in whole.stages] == ["fp32"] * 4 + ["int8"] * 2
    costs = [stage.costs for stage in whole.stages]
    assert costs[2]["macs"] <= costs[1]["macs"] / 2
    assert costs[4]["size"] < costs[3]["size"] < costs[1]["size"]
    assert whole.stages[1].score > whole.stages[0].score + 0.3
    assert "INT8" in {onnx.TensorProto.DataType.Name(t.data_type) for t in _weights(whole)}
    assert min(whole.latencies) > 0


def test_a_recipe_that_was_stopped_ends_in_the_same_bytes(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    asked = recipe({"train": {"epochs": 1}}, "quantise")
    carry_out(asked, tmp_path / "whole")
    stopped, stops = tmp_path / "stopped", 0
    for count in (2, 4, 1000):
        try:
            with listened_by(Stopping(count)):
                carry_out(asked, stopped)
        except Stopped:
            stops += 1
    assert stops == 2
    assert contents(stopped) == contents(tmp_path / "whole")


def _weights(result: Compressed) -> Any:
    stage = result.stages[-1]
    return onnx.load(result.artifact / stage.file).graph.initializer


@pytest.mark.slow
def test_killed_twenty_times_it_ends_in_the_same_bytes(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    start = time.monotonic()
    carry_out(recipe(*WHOLE), tmp_path / "whole")
    seconds, kills, draw = time.monotonic() - start, 0, random.Random(7)
    while kills < 20:
        child = os.fork()
        if child == 0:
            carry_out(recipe(*WHOLE), tmp_path / "killed")
            os._exit(0)
        time.sleep(draw.uniform(0, seconds / 4))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        else:
            break  # it was done before it was killed
    carry_out(recipe(*WHOLE), tmp_path / "killed")
    assert kills >= 5
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_stages_that_are_done_are_not_done_again_and_those_of_another_recipe_are_refused(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    first = {"prune": {"params": "2x", "round_to": 1}}
    carry_out(recipe(first), tmp_path / "out")
    made = (tmp_path / "out/01-prune/model.safetensors").stat().st_mtime_ns
    again = carry_out(recipe(first, "quantise"), tmp_path / "out")
    assert [stage.stage for stage in again.stages] == ["source", "prune", "quantise"]
    assert (tmp_path / "out/01-prune/model.safetensors").stat().st_mtime_ns == made
    with pytest.raises(RecipeError, match="02-quantise is a stage of another recipe"):
        carry_out(recipe(first), tmp_path / "out")
    other = {"prune": {"params": "4x", "round_to": 1}}
    with pytest.raises(RecipeError, match="01-prune was made by another recipe"):
        carry_out(recipe(other, "quantise"), tmp_path / "out")
    result = carry_out(recipe(other), tmp_path / "out", overwrite=True)
    assert result.stages[1].costs["params"] <= result.stages[0].costs["params"] / 4
    assert not (tmp_path / "out/02-quantise").exists()


@pytest.mark.slow
def test_the_budget_of_the_whole_is_kept_by_the_file_that_the_recipe_ends_with(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    loose = {"agreement": 0.0, "sqnr": -100.0, "accuracy_drop": 1.0}
    result = carry_out(recipe("prune", "quantise", {"export": loose}, budget={"size": "7.6KB"}), tmp_path / "out")
    size = (result.artifact / result.stages[-1].file).stat().st_size
    assert result.stages[-1].costs["size"] == size <= 7_600 == result.limits["size"]
    params = [stage.costs["params"] for stage in result.stages]
    assert size > 6_000 and params[-1] < params[0]
    plan = Artifact.open(tmp_path / "out/01-prune").plan
    assert plan is not None and plan.conditions["size"].endswith("onnx in int8")
    with pytest.raises(BudgetError, match="the last stage breaks the budget: size is"):
        carry_out(recipe({"prune": {"params": "1.1x", "round_to": 1}}, budget={"size": "2KB"}), tmp_path / "over")
    assert (tmp_path / "over/stages.json").exists()


@pytest.mark.slow
def test_prune_leaves_room_for_the_operations_of_a_later_replace(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Polynomials in int8 are many nodes: 11 kB for two of them."""
    wide = (
        NET.replace("Conv2d(16, 16", "Conv2d(16, 48").replace("64, num", "192, num").replace("nn.ReLU()", "nn.GELU()")
    )
    head, last = wide.rsplit("BatchNorm2d(16)", 1)
    (tmp_path / "net.py").write_text(f"{head}BatchNorm2d(48){last}")
    replace = {"replace": {"allow": ["polynomial"]}}
    size = {}
    for name, stages in {"bare": ("prune", "quantise"), "whole": ("prune", replace, "quantise")}.items():
        result = carry_out(recipe(*stages, budget={"size": "22kB", "params": "9000"}), tmp_path / name)
        size[name] = [stage.costs["size"] for stage in result.stages]
    assert size["bare"][-1] < 16_000, "without operations the limit asks for little"
    assert 18_000 < size["whole"][-1] <= 22_000
    assert size["whole"][1] < size["bare"][1]
    notes: list[str] = []
    with notes_to(notes.append):
        carry_out(recipe("prune", replace, "quantise", budget={"size": "22kB", "params": "9000"}), tmp_path / "again")
    assert any(note.startswith("room for the operations of a later replace stage: ") for note in notes)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_operations_that_take_the_whole_size_are_refused_before_anything_is_cut(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(NET.replace("nn.ReLU()", "nn.GELU()"))
    chosen = {**recipe("prune", {"replace": {"allow": ["polynomial"]}}), "budget": {"size": "1kB"}}
    with pytest.raises(BudgetError, match=r"replace stage puts in take .* of size, and the limit is"):
        carry_out(chosen, tmp_path / "out")
    assert not list((tmp_path / "out/01-prune").glob("*.safetensors"))


def test_bits_follow_pruning_and_training(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    stages = ({"train": {"epochs": 2}}, {"prune": {"params": "1.5x", "round_to": 1}}, {"bits": {"size": "3x"}})
    result = carry_out(recipe(*stages), tmp_path / "out")
    plan = Artifact.open(result.artifact).plan
    assert plan is not None and plan.bits is not None
    assert plan.costs["pruned"]["params"] == result.stages[-1].costs["params"] < result.stages[0].costs["params"]
    assert result.stages[-1].costs["size"] < result.stages[-2].costs["size"]


@pytest.mark.parametrize(
    "stage", ["bits", pytest.param({"search": {"epochs": 2, "finetune": 1}}, marks=pytest.mark.slow)]
)
def test_stages_of_bits_keep_the_budget_of_the_file(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path, stage: Any
) -> None:
    limit = 6500
    result = carry_out(recipe({"train": {"epochs": 1}}, stage, budget={"size": f"{limit}B"}), tmp_path / "out")
    assert 0.9 * limit <= result.stages[-1].costs["size"] <= limit
    plan = Artifact.open(result.artifact).plan
    assert plan is not None and plan.costs["pruned"]["size"] < limit - 1000, "the graph is beside it"
    with pytest.raises(
        BudgetError, match=r"size 1kB of the file cannot be kept: beside .* let channels leave"
    ) as caught:
        carry_out(recipe({"train": {"epochs": 1}}, "bits", budget={"size": "1kB"}), tmp_path / "small")
    assert caught.value.floor["size"] > 1000


@pytest.mark.slow
def test_two_stages_of_a_recipe_do_what_the_two_commands_do(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from reconvene.data import load_data
    from reconvene.models import resolve_address
    from reconvene.workflow import export_artifact, prune_artifact, train

    asked = recipe({"prune": {"params": "2x"}}, {"train": {"epochs": 1}}, "export")
    result = carry_out(asked, tmp_path / "out")
    data = load_data("digits", input_shape=(1, 8, 8), limit=200)
    source = resolve_address(asked["model"], input_shape=(1, 8, 8), allow_import=True).with_classes(10)
    folder, task = tmp_path / "by_hand", data.task
    budget = rc.Budget(params="2x")
    prune_artifact(source, folder, budget=budget, task=task, examples=len(data.train), allow_import=True)
    train(folder, data, epochs=1, allow_import=True)
    export_artifact(folder, dataset=data, allow_import=True)
    for name in ("model.safetensors", "plan.json", "model.onnx"):
        assert (folder / name).read_bytes() == (result.artifact / name).read_bytes(), name


def test_a_budget_alone_is_kept_by_the_usual_stages() -> None:
    recipe = read_recipe_file({"model": "resnet20", "budget": {"size": "100kB"}})
    assert [stage.name for stage in recipe.stages] == ["train", "prune", "distil", "quantise", "export"]
    recipe = read_recipe_file({"model": "resnet20", "budget": {"size": "100kB"}, "trained": True})
    assert [stage.name for stage in recipe.stages] == ["prune", "distil", "quantise", "export"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: resnet20\n", "a recipe has a list of stages"),
        ("model: resnet20\nstages:\n  - prine: {params: 4x}\n", "line 3: unknown stage 'prine'. Did you mean 'prune'"),
        ("model: resnet20\nstages:\n  - prune: {parms: 4x}\n", "line 3: .*has no 'parms'. Did you mean 'params'"),
        ("model: resnet20\nstages:\n  - train: {epochs: 0}\n", "line 3: .*epochs: expected at least 1, got 0"),
        ("model: resnet20\nstages:\n  - train: {lr: -1.0}\n", "line 3: lr -1.0 cannot be trained with"),
        ("model: resnet20\nstages:\n  - prune\n", "line 3: stage 1, prune, has no limit"),
        ("model: resnet20\nstages:\n  - train\n  - distil: {teacher: 7}\n", "line 4: .*its teacher is stage 7"),
        ("model: resnet20\nstages:\n  - distil\n", "line 3: stage 1, distil: no earlier stage trains a teacher"),
        ("model: resnet20\nstages:\n  - prune: {params: 4x}\n  - quantise: {epochs: 2}\n", "goes on from weights"),
        ("model: resnet20\nbudget: {size: 1MB}\nstages:\n  - prune\n  - prune\n", "stages 1 and 2 both have no limit"),
        ("model: resnet20\nstages:\n  - bits: {size: 4x}\n  - prune: {params: 4x}\n", "Put it before the bits stage"),
        (
            "model: resnet20\nstages:\n  - bits: {ops_bit: 4x, activation_bits: [4, 8]}\n"
            "  - export: {formats: [onnx, openvino]}\n",
            "openvino files hold no activations below 8 bits",
        ),
        (
            "model: resnet20\nstages:\n  - bits: {size: 4x}\n  - export: {formats: [ncnn]}\n",
            "ncnn files hold no weights below 8 bits",
        ),
        ("model: resnet20\nstages:\n  - search: {size: 4x}\n", "a search begins with weights that were trained"),
        ("model: resnet20\nbudget: {sise: 1MB}\nstages:\n  - train\n", "has no budget"),
        ("model: resnet20\nstages:\n  - replace: {allow: [relu], lr: 0.5}\n", "line 3: lr is about training"),
        ("model: resnet20\nbudget: {cycles: 2x}\nstages:\n  - train\n  - prune\n", "cycles depend on a chip"),
        ("model: resnet20\nstd: [-1.0]\nstages:\n  - train\n", "line 2: std is one number for each"),
        ("model: resnet20\ntask: notask\nstages:\n  - train\n", "line 2: .*'notask'"),
        ("model: resnet20\nbudget: {levels: 1}\nstages:\n  - train\n", "no stage keeps a limit on levels"),
        *(
            (f"model: resnet20\nstages:\n  - train\n  - {stage}\n", f"line 4: stage 2, .*{message}")
            for stage, message in (
                ("distil: {weight: 2.0}", r"weight must be in \[0, 1\]"),
                ("distil: {temperature: 0.0}", "temperature must be above 0"),
                ("distil: {features: -1.0}", "features must not be negative"),
                ("distil: {teacher: nowhere}", "nowhere"),
                ("replace: {allow: [relu], epochs: 1, weight: 2.0}", r"weight must be in \[0, 1\]"),
                ("replace: {price: 0.5, device: nodevice}", "no device is called 'nodevice'"),
                ("prune: {latency: 2x, device: nodevice}", "no device is called 'nodevice'"),
                ("prune: {cycles: 2k, target: nochip}", "unknown target 'nochip'"),
                ("prune: {params: 2x, size_of: [onnx]}", "no limit on size"),
                ("bits: {size: 4x, choices: [33]}", "are not some of"),
                ("search: {size: 4x, warmup: -3}", "warmup=-3"),
                ("search: {size: 4x, lr: -1.0}", "not a learning rate"),
                ("export: {sqnr: 500.0}", "and these are float32"),
                ("prune: {cycles: 2x}", "cycles depend on a chip"),
                ("prune: {macs: 2x, evaluator: ablation}", "reads scores of weights, and criterion taylor"),
                ("quantise: {epochs: -1}", "epochs -1 must be at least 0"),
                ("quantise: {lr: 0.5}", "which needs epochs"),
                ("quantise: {epochs: 1, lr: -1.0}", "lr must be above 0"),
                ("export: {agreement: 7.0}", r"agreement=7.0 .* must be in \[0, 1\]"),
                ("export: {formats: []}", "names no format"),
                ("export: {keep_fp32: [conv1]}", "and these are float32"),
            )
        ),
        (
            "model: resnet20\nstages:\n  - train\n  - bits: {size: 4x}\n  - train\n  - export: {formats: [ncnn]}\n",
            "ncnn files hold no weights below 8 bits",
        ),
        (
            "model: resnet20\nstages:\n  - train\n  - bits: {size: 4x}\n  - quantise\n",
            "stage 3, quantise: bits were decided before it",
        ),
        (
            "model: resnet20\nweights: no.safetensors\nstages:\n  - export\n",
            "line 2: there is no file .*no.saf",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipe_file(tmp_path / "recipe.yaml")


def test_an_artifact_says_how_its_images_are_prepared_and_leaves_no_room_for_other_weights(tmp_path: Path) -> None:
    """Normalised by the mean of fewer images a network would be judged on inputs that it was not trained with."""
    rc.save(ModelSource("resnet20", {"width": 0.25}, (3, 32, 32)).build(), tmp_path / "net")
    digits = partial(load_data, "digits", input_shape=(3, 32, 32), mean=[0.25], std=[0.5])
    data = digits(limit=100)
    rc.train(tmp_path / "net", data, epochs=1)
    result = rc.compress({"model": str(tmp_path / "net"), "limit": 60, "stages": ["export"]}, tmp_path / "out")
    assert Artifact.open(result.artifact).preprocessing == data.preprocessing
    judged = rc.evaluate(
        tmp_path / "net", load_data("digits", input_shape=(3, 32, 32), mean=[0.25], std=[0.5], limit=60)
    )
    assert result.stages[0].score == pytest.approx(judged["dense"].score)
    for key in ({"weights": "x.pt"}, {"args": {"width": 0.5}}, {"input": [3, 32, 32]}):
        with pytest.raises(RecipeError, match=f"{next(iter(key))}: .* is an artifact, which has its own"):
            read_recipe_file({"model": str(tmp_path / "net"), "stages": ["export"], **key})


def test_weights_that_were_trained_elsewhere_count_as_trained(tmp_path: Path) -> None:
    rc.save(ModelSource("resnet20", {"width": 0.25}, (3, 32, 32)).build(), tmp_path / "net", trained=True)
    recipe = read_recipe_file({"model": str(tmp_path / "net"), "budget": {"size": "100kB"}})
    assert recipe.is_trained and recipe.stages[0].name == "prune"


def test_a_recipe_says_how_images_were_normalised_for_its_weights(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    chosen = recipe({"prune": {"params": "2x"}}, trained=True, mean=[0.25], std=[0.5])
    result = carry_out(chosen, tmp_path / "out")
    for folder in ("00-source", "01-prune"):
        assert Artifact.open(tmp_path / "out" / folder).normalised == Normalisation((0.25,), (0.5,))
    with pytest.raises(RecipeError, match="made by another recipe"):
        carry_out({**chosen, "mean": [0.0]}, tmp_path / "out")
    rc.save(result.model(allow_import=True), tmp_path / "bare", trained=True)  # in a loop of one's own
    with_own = {**chosen, "model": str(tmp_path / "bare"), "stages": [{"prune": {"params": "2x"}}]}
    del with_own["input"], with_own["trained"]
    carry_out(with_own, tmp_path / "with-own")
    for folder in ("00-source", "01-prune"):
        assert Artifact.open(tmp_path / "with-own" / folder).normalised == Normalisation((0.25,), (0.5,))
    other = {**chosen, "model": str(result.artifact), "mean": [0.0]}
    del other["input"], other["trained"]
    with pytest.raises(RecipeError, match=r"mean: the network in .* was trained with \[0.25\]"):
        carry_out(other, tmp_path / "again")


def test_another_teacher_makes_its_stage_anew(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    source = ModelSource(f"{tmp_path / 'net.py'}:make", {}, (1, 8, 8))
    for seed in (0, 1):
        torch.manual_seed(seed)
        rc.save(source.build(allow_import=True), tmp_path / f"teacher{seed}", source=source, trained=True)
    os.rename(tmp_path / "teacher0", tmp_path / "teacher")
    distilled = recipe({"distil": {"epochs": 1, "teacher": str(tmp_path / "teacher")}})
    carry_out(distilled, tmp_path / "out")
    os.rename(tmp_path / "teacher", tmp_path / "gone")
    os.rename(tmp_path / "teacher1", tmp_path / "teacher")
    state = torch.randn(16, 1, 3, 3)
    teacher = rc.load(tmp_path / "teacher", allow_import=True)
    teacher.get_parameter("0.weight").data.copy_(state)
    rc.save(teacher, tmp_path / "teacher", source=source, trained=True)
    with pytest.raises(RecipeError, match="was made by another recipe, or from another network"):
        carry_out(distilled, tmp_path / "out")


def test_the_command_prints_the_table_and_json(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reconvene.cli import main

    file = tmp_path / "small.json.yaml"
    file.write_text(json.dumps(recipe({"prune": {"params": "2x"}})))
    command = ["compress", str(file), "-o", str(tmp_path / "out"), "--allow-import"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "01-prune" in text and "accuracy" in text and "smaller" in text
    assert main([*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in data["stages"]] == ["source", "prune"]
    drawn = (tmp_path / "out/stages.svg").read_text()
    assert drawn.count("<circle") == 6 and "latency" in drawn


@pytest.mark.slow
def test_operations_are_replaced_while_training_and_a_stopped_run_ends_in_the_same_bytes(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(NET.replace("nn.ReLU()", "nn.Hardswish()"))
    stages = ({"train": {"epochs": 1}}, {"prune": {"macs": "1.5x"}}, {"replace": {"allow": "relu", "epochs": 2}})
    whole = carry_out(recipe(*stages), tmp_path / "whole")
    operators = {node.op_type for node in onnx.load(whole.artifact / whole.stages[-1].file).graph.node}
    assert operators & {"Relu", "Mul"} and not operators & {"HardSwish", "HardSigmoid", "Clip", "Sigmoid"}
    shares: list[float] = []
    saved = TrainingRun._save

    def stop_after_an_epoch(run: TrainingRun) -> None:
        shares.extend(blend.share for blend in run.blends[:1])
        saved(run)
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(TrainingRun, "_save", stop_after_an_epoch)
        carry_out(recipe(*stages[:1]), tmp_path / "stopped")
    assert not shares, "nothing is blended in a plain training"
    carry_out(recipe(*stages[:2]), tmp_path / "stopped")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(TrainingRun, "_save", stop_after_an_epoch)
        carry_out(recipe(*stages), tmp_path / "stopped")
    assert 0.9 < shares[0] <= 1
    carry_out(recipe(*stages), tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_search_is_a_stage_and_its_bits_are_in_the_file(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    stages = ({"train": {"epochs": 1}}, {"search": {"size": "4x", "epochs": 3, "finetune": 1}})
    result = carry_out(recipe(*stages), tmp_path / "out")
    plan = Artifact.open(result.artifact).plan
    assert plan is not None and plan.bits is not None
    assert result.stages[-1].precision == "plan" and result.stages[-1].costs["size"] < result.stages[1].costs["size"]


@pytest.mark.slow
def test_the_command_replaces_operations(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reconvene.cli import main
    from reconvene.models import resolve_address

    (tmp_path / "net.py").write_text(NET.replace("nn.ReLU()", "nn.Hardswish()"))
    source = resolve_address(recipe()["model"], input_shape=(1, 8, 8), allow_import=True)
    rc.save(source.build(allow_import=True), tmp_path / "dense", source=source)
    command = ["replace", str(tmp_path / "dense"), "-o", str(tmp_path / "out"), "--limit", "200", "--allow-import"]
    assert main(command) == 2
    assert main([*command, "--allow", "relu7"]) == 1
    assert "Did you mean 'relu" in capsys.readouterr().err
    assert main([*command, "--allow", "relu6"]) == 0
    model = rc.load(tmp_path / "out/01-replace", allow_import=True)
    sites = find_sites(model.eval(), torch.randn(1, 1, 8, 8))
    assert {site.operation for site in sites} == {"relu6"}


def test_a_latency_of_another_device_is_limited_there(tmp_path: Path) -> None:
    """Of 1.2x the amount is that of the board's profile, and this machine says nothing about it."""
    model = MODELS["resnet20"](width=0.25)
    devices.save_profile(device_fakes.of(model, torch.zeros(1, 3, 32, 32))[1], tmp_path / "board.json")
    recipe: dict[str, Any] = {
        "model": "resnet20",
        "args": {"width": 0.25},
        "limit": 100,
        "budget": {"latency": "1.2x"},
        "stages": [{"prune": {"device": str(tmp_path / "board.json")}}],
    }
    result = rc.compress(recipe, tmp_path / "out")
    plan = rc.plan(model, torch.zeros(1, 3, 32, 32), rc.Budget(latency="1.2x"), device=tmp_path / "board.json")
    found = Artifact.open(result.artifact).plan
    assert found is not None and found.costs["pruned"]["latency"] <= plan.costs["dense"]["latency"] / 1.2
    assert result.limits.keys() == {"latency"} and result.on_device is not None
    assert result.on_device.seconds == pytest.approx(found.costs["pruned"]["latency"])
    assert "board.json, by its profile: kept" in str(result)
    replaced = {**recipe, "stages": [*recipe["stages"], {"replace": {"allow": ["polynomial"]}}]}
    with pytest.raises(DeviceError, match="has no"):
        rc.compress(replaced, tmp_path / "replaced")
    assert not list((tmp_path / "replaced/01-prune").glob("*.safetensors")), "nothing is cut for a limit nobody checks"


def test_mistakes_that_need_the_network_are_found_before_it_is_trained(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="stage 2, prune: unknown layer to keep 'nolayer'"):
        carry_out(recipe("train", {"prune": {"macs": "2x", "keep": "nolayer"}}), tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("0*"))


def test_a_stage_that_failed_before_it_made_anything_does_not_block_the_corrected_recipe(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(BudgetError):
        carry_out(recipe({"prune": {"params": "10000x"}}), tmp_path / "out")
    result = carry_out(recipe({"prune": {"params": "2x"}}), tmp_path / "out")
    assert result.stages[1].costs["params"] < result.stages[0].costs["params"] / 2
