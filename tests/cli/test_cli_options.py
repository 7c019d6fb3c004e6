"""Options of the command line reach what does the work: each is given here, and read where it arrives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import reconvene as rc
from reconvene import artifact, workflow
from reconvene.cli import main
from reconvene.models import resolve_address
from reconvene.training import TrainConfig
from reconvene.workflow import Pruning, compression
from reconvene.workflow.search import Searching
from support.cli_calls import SMALL, answer


class Arrived(BaseException):
    """Raised instead of the work; no command takes it for an error of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = resolve_address("resnet20", {"width": 0.25})
    folder = tmp_path_factory.mktemp("dense") / "a"
    rc.save(source.build(), folder, source=source)
    return str(folder)


def arrives(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *command: str) -> dict[str, Any]:
    """The keyword arguments with which the command calls ``owner.name``."""

    def work(*positional: Any, **options: Any) -> None:
        raise Arrived({**dict(enumerate(positional)), **options})

    monkeypatch.setattr(owner, name, work)
    with pytest.raises(Arrived) as caught:
        main(list(command))
    return caught.value.options


def test_options_of_training(dense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    recipe = "--optimizer adamw --weight-decay 0.02 --augment none --precision fp32 --schedule multi-step --lr 0.003"
    words = [*recipe.split(), "--batch-size", "40", "--epochs", "3", "--seed", "5", "--sparsity", "slimming:1e-4"]
    found = arrives(monkeypatch, workflow, "train", "train", dense, "--data", "digits", *words, "--train-on", "cpu")
    config = found["config"]
    assert isinstance(config, TrainConfig)
    asked = {"optimizer": "adamw", "weight_decay": 0.02, "augment": "none", "precision": "fp32"}
    asked |= {"schedule": "multi-step", "lr": 0.003, "batch_size": 40, "seed": 5, "device": "cpu"}
    assert {name: getattr(config, name) for name in asked} == asked
    assert found["epochs"] == 3 and config.sparsity is not None and "slimming" in str(config.sparsity)


def test_options_of_growing(dense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    words = "--grow --params 2x --regrow 0.25 --ramp 0.1,0.5 --data digits"
    found = arrives(monkeypatch, workflow, "train_growing", "train", dense, *words.split())
    assert found["regrow"] == 0.25 and found["ramp"] == (0.1, 0.5) and found["budget"].asked == {"params": "2x"}


def test_options_of_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--size 2x --size-of onnx --peak-memory 2x --memory-of onnx --for-int8 --evaluator density --round-to 4"
    more = [*words.split(), "--criterion", "magnitude", "--rectify", "rescale", "--keep", "stem.*", "--keep", "head"]
    found = arrives(monkeypatch, workflow, "prune_artifact", "prune", *SMALL, *more, "-o", str(tmp_path / "a"))
    pruning = found["pruning"]
    assert isinstance(pruning, Pruning) and set(found["budget"].asked) == {"params", "size", "peak_memory"}
    assert (pruning.size_of, pruning.memory_of, pruning.precision) == (("onnx",), "onnx", "int8")
    assert (pruning.criterion, pruning.evaluator, pruning.rectify) == ("magnitude", "density", "rescale")
    assert (pruning.keep, pruning.round_to, pruning.trained) == (("stem.*", "head"), 4, False)


def test_options_of_pruning_in_steps(dense: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    words = "--trained --data digits --params 4x --steps 3 --epochs 1 --pace cubic --floor 0.5 --distill-weight 0.3"
    more = [*words.split(), "--temperature", "2", "-o", str(tmp_path / "a")]
    found = arrives(monkeypatch, workflow, "prune_in_steps", "prune", dense, *more)
    tuned = found["tuned"]
    assert (tuned.steps, tuned.epochs, tuned.pace, tuned.floor) == (3, 1, "cubic", 0.5)
    assert (tuned.lesson.weight, tuned.lesson.temperature) == (0.3, 2.0)


def test_options_of_a_search(dense: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    words = "--size 4x --bits 0,4,8 --epochs 6 --warmup 2 --finetune 1 --lr 0.01 --batch-size 32 --keep head"
    more = [
        *words.split(),
        "--round-to",
        "2",
        "--train-on",
        "cpu",
        "--no-resume",
        "--overwrite",
        "--data",
        "digits",
        "--activation-bits",
        "4,8",
    ]
    found = arrives(monkeypatch, workflow, "search_artifact", "search", dense, *more, "-o", str(tmp_path / "a"))
    wanted = Searching((0, 4, 8), 6, 2, 1, 0.01, 32, None, ("head",), 2, 0, "cpu", (4, 8))
    assert found["searching"] == wanted and not found["resume"] and found["overwrite"]


def test_options_of_a_replacement(dense: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--allow relu6 --price 0.5 --epochs 2 --lr 0.1 --limit 9 --data digits --seed 3"
    found = arrives(monkeypatch, compression, "compress", "replace", dense, *words.split(), "-o", str(tmp_path / "a"))
    recipe = found[0]
    assert recipe["stages"] == [{"replace": {"allow": ["relu6"], "price": 0.5, "epochs": 2, "lr": 0.1}}]
    assert (recipe["limit"], recipe["seed"], recipe["data"]) == (9, 3, "digits")


def test_options_of_a_push(dense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "me/net --private --message text --revision b --license mit --include model.onnx --dry-run"
    found = arrives(monkeypatch, artifact, "push_to_hub", "push", dense, *words.split())
    assert {found[name] for name in ("message", "revision", "license")} == {"text", "b", "mit"}
    assert found["private"] and found["dry_run"] and found["include"] == ("model.onnx",)


def test_options_of_an_export(dense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--state carried --batch 2 --opset 19 --precision fp16 --tolerance 0.05 --dense --to onnx,openvino"
    found = arrives(monkeypatch, workflow, "export_artifact", "export", dense, *words.split())
    form = found["form"]
    assert (form.state, form.batch, form.opset, form.precision, form.tolerance) == ("carried", 2, 19, "fp16", 0.05)
    assert found["with_dense"] and tuple(found["formats"]) == ("onnx", "openvino")


def test_the_density_of_an_inspection_changes_its_sensitivities(capfd: pytest.CaptureFixture[str]) -> None:
    call = ["inspect", "resnet20", "--model-arg", "width=0.25", "--criterion", "magnitude", "--evaluator", "density"]
    few, many = (answer(capfd, *call, "--density", share)["sensitivity"] for share in ("0.05", "0.5"))
    assert few != many
