"""Training in which channels leave and come back: cut to its budget, and stopped at any moment the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import reconvene as rc
from reconvene import artifact
from reconvene.cli import main
from reconvene.data import Dataset, load_data
from reconvene.errors import ArgumentError, TrainingError
from reconvene.models import resolve_address
from reconvene.planning.regrowth.regrowth import Regrowth
from reconvene.structure.state import clear_state
from reconvene.training import TrainConfig
from reconvene.workflow import train_growing
from support.cli_calls import answer, trouble
from support.training_checks import interrupt_at

CONFIG = TrainConfig(batch_size=16, precision="fp32", checkpoint_seconds=0.0)
MODEL = ["snn_vgg", "--model-arg", "width=0.0625", "--model-arg", "in_channels=1", "--input", "1x16x16"]
BUDGET = rc.Budget(params="2x")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits", input_shape=(1, 16, 16), limit=64)


def saved(folder: Path) -> Path:
    source = resolve_address("snn_vgg", {"width": 0.0625, "in_channels": 1}, input_shape=(1, 16, 16))
    artifact.save(source.build(), folder, source=source)
    return folder


def grown_bytes(folder: Path, digits: Dataset) -> list[bytes]:
    train_growing(folder, digits, epochs=3, budget=BUDGET, config=CONFIG)
    return [(folder / name).read_bytes() for name in ("model.safetensors", "plan.json", "reconvene.json")]


def test_a_stopped_run_goes_on_to_the_same_bytes(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = grown_bytes(saved(tmp_path / "whole"), digits)
    folder = saved(tmp_path / "parts")
    for step in (4, 9):  # once before the ramp has ended, once behind it
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                grown_bytes(folder, digits)
    assert artifact.read_plan(folder) is None, "until the cut the artifact is the dense one"
    assert grown_bytes(folder, digits) == whole
    assert sorted(path.name for path in folder.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())
    plan = artifact.read_plan(folder)
    dense, small = (plan.costs[side]["params"] for side in ("dense", "pruned"))
    assert small <= dense / 2 and sum(p.numel() for p in rc.load(folder).parameters()) == small
    assert train_growing(folder, digits, epochs=3, budget=BUDGET, config=CONFIG).metrics  # returns at once
    with pytest.raises(
        TrainingError, match=r"was pruned and trained already, with other settings: \w+ is .* now and was"
    ):
        train_growing(folder, digits, epochs=4, budget=BUDGET, config=CONFIG)


def test_the_command_line_grows_a_model_by_its_name_and_the_plan_of_an_artifact(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", "digits", "--limit", "40", "--epochs", "1", "--batch-size", "16"]
    said = answer(capfd, "train", *MODEL, *options, "--grow", "--params", "2x", "-o", str(tmp_path / "named"))
    assert said["artifact"] == str(tmp_path / "named") and 0 <= said["accuracy"] <= 1
    assert artifact.Artifact.open(tmp_path / "named").pruning.budget == {"params": "2x"}
    assert main(["prune", *MODEL, "--params", "3x", "-o", str(tmp_path / "planned")]) == 0
    before = artifact.read_plan(tmp_path / "planned")
    capfd.readouterr()
    assert main(["train", str(tmp_path / "planned"), *options, "--grow"]) == 0
    after = artifact.read_plan(tmp_path / "planned")
    assert {row.name: row.width for row in after.rows if row.width < row.dense} == {
        row.name: row.width for row in before.rows if row.width < row.dense
    }
    assert all(row.why == "prune and regrow" for row in after.rows) and after.criterion == "activity"


def test_missing_or_senseless_arguments_are_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(saved(tmp_path / "dense"))
    options = ["--data", "digits", "--limit", "60"]
    assert "say how small it becomes" in trouble(capfd, "train", folder, *options, "--grow")
    assert "add --grow" in trouble(capfd, "train", folder, *options, "--params", "2x", code=2)
    assert "is not a pair" in trouble(
        capfd, "train", folder, *options, "--grow", "--params", "2x", "--ramp", "1", code=2
    )
    assert "leave --qat out" in trouble(capfd, "train", folder, *options, "--grow", "--params", "2x", "--qat", code=2)
    assert "two shares" in trouble(capfd, "train", folder, *options, "--grow", "--params", "2x", "--ramp", "0.6,0.2")


def test_a_loop_of_ones_own_goes_on_from_its_state() -> None:
    x, y = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3

    def begun() -> tuple[Regrowth, torch.optim.Optimizer]:
        model = resolve_address("snn_vgg", {"width": 0.0625, "in_channels": 1}).build()
        growth = rc.Regrowth(model, x, rc.Budget(params="2x"), ramp=(0.1, 0.9))
        return growth, torch.optim.SGD(growth.network.parameters(), 0.1, 0.9)

    def trained(growth: Regrowth, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            clear_state(growth.network.train())
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(growth.network(x), y).backward()
            optimizer.step()
            growth.step((step + 1) / 12)

    whole = begun()
    trained(*whole, range(12))
    first, second = begun(), begun()
    trained(*first, range(7))
    for one, other in zip(
        (first[0], first[0].network, first[1]), (second[0], second[0].network, second[1]), strict=True
    ):
        other.load_state_dict(one.state_dict())
    trained(*second, range(7, 12))
    for one, other in zip(whole[0].alive, second[0].alive, strict=True):
        assert (one == other).all()
    small, again = whole[0].cut(), second[0].cut()
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))
    with pytest.raises(ArgumentError, match="masks of this network have"):
        second[0].load_state_dict({})
