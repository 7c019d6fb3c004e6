"""Plain mistakes of a caller: each is an error of ours that names the argument, and says what would work."""

from __future__ import annotations

import copy
import errno
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene import cli
from reconvene.cli import main
from reconvene.cli.prune import PruneCommand
from reconvene.errors import (
    ArgumentError,
    BudgetError,
    DeviceError,
    ModelError,
    PlanError,
    ReconveneError,
    ResourceError,
    UnknownNameError,
)
from reconvene.models import ModelSource, example_inputs, parse_arguments, resolve_address
from reconvene.utils import resources
from support.cli_calls import SMALL, trouble

INPUTS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BUDGET = rc.Budget(params="2x")


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(*body, nn.Linear(16, 4))


MODEL = network()
PLAN = rc.plan(MODEL, INPUTS, BUDGET)
BATCHES = [(INPUTS, torch.zeros(1, dtype=torch.long))]


def nested(depth: int) -> nn.Module:
    model: nn.Module = nn.Conv2d(3, 8, 3)
    for _ in range(depth):
        model = nn.Sequential(model)
    return nn.Sequential(model, nn.Flatten())


# Every verb that takes a model, with something else in its place.
VERBS: dict[str, Callable[[Any], Any]] = {
    "groups": lambda model: rc.groups(model, INPUTS),
    "sensitivity": lambda model: rc.sensitivity(model, INPUTS),
    "plan": lambda model: rc.plan(model, INPUTS, BUDGET),
    "prune": lambda model: rc.prune(model, INPUTS, BUDGET),
    "prune_iteratively": lambda model: rc.prune_iteratively(model, INPUTS, BUDGET),
    "prune_and_regrow": lambda model: rc.prune_and_regrow(model, INPUTS, BUDGET, train=BATCHES),
    "simplify": lambda model: rc.simplify(model, INPUTS),
    "replace": lambda model: rc.replace(model, INPUTS, allow=["relu"]),
    "search": lambda model: rc.search(model, INPUTS, BUDGET, train=BATCHES),
    "masks": lambda model: rc.masks(model, 0.5),
    "measure": lambda model: rc.measure(model, INPUTS, latency=False),
    "rectify": lambda model: rc.rectify(model, PLAN, INPUTS),
    "save": lambda model: rc.save(model, "nowhere"),
    "export": lambda model: rc.export(model, "nowhere", example_inputs=INPUTS),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ("resnet18", "resolve_address('resnet18').build()"),
        (nn.Linear, "Linear(...)"),
        (MODEL.state_dict(), "load it there"),
        (INPUTS, "torch.nn.Module"),
        (None, "torch.nn.Module"),
    ],
    ids=["name", "class", "state dict", "tensor", "nothing"],
)
def test_what_is_no_model_is_refused_by_every_verb(verb: str, model: Any, remedy: str) -> None:
    with pytest.raises(ModelError) as caught:
        VERBS[verb](model)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("budget", "remedy"),
    [
        ("4x", "Budget(params='4x')"),
        (4, "Budget(params='4x')"),
        (0.25, "Budget(params=0.25)"),
        (True, "Budget(params='4x')"),
        ({"params": "4x"}, "Budget(params='4x')"),
        (None, "Budget(params='4x')"),
    ],
)
@pytest.mark.parametrize("verb", [rc.plan, rc.prune])
def test_the_error_for_a_budget_of_another_type_shows_how_to_write_one(verb: Any, budget: Any, remedy: str) -> None:
    with pytest.raises(BudgetError) as caught:
        verb(MODEL, INPUTS, budget)
    assert remedy in str(caught.value)


SEEDED: dict[str, Callable[[Any], Any]] = {
    "plan": lambda seed: rc.plan(MODEL, INPUTS, BUDGET, seed=seed),
    "prune": lambda seed: rc.prune(MODEL, INPUTS, BUDGET, seed=seed),
    "sensitivity": lambda seed: rc.sensitivity(MODEL, INPUTS, seed=seed),
    "masks": lambda seed: rc.masks(MODEL, 0.5, "random", seed=seed),
    "rectify": lambda seed: rc.rectify(copy.deepcopy(MODEL), PLAN, INPUTS, seed=seed),
    "export": lambda seed: rc.export(MODEL, "nowhere", example_inputs=INPUTS, seed=seed),
}


@pytest.mark.parametrize("seed", [True, 1.5, "a", -1, 2**63, 2**70], ids=repr)
@pytest.mark.parametrize("verb", SEEDED)
def test_a_seed_is_a_whole_number(verb: str, seed: Any) -> None:
    with pytest.raises(ArgumentError, match=r"seed=.*is not a whole number from 0"):
        SEEDED[verb](seed)


def test_a_seed_of_numpy_is_a_whole_number_too() -> None:
    assert (
        rc.plan(MODEL, INPUTS, BUDGET, seed=np.int64(7)).to_json() == rc.plan(MODEL, INPUTS, BUDGET, seed=7).to_json()
    )


@pytest.mark.parametrize("seed", [True, 1.5, "a", None, 2**70], ids=repr)
def test_a_model_is_not_drawn_from_what_is_no_seed(seed: Any) -> None:
    with pytest.raises(ModelError, match="seed"):
        ModelSource("resnet20", seed=seed).build()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rc.plan(MODEL, INPUTS, BUDGET, round_to="8"), ArgumentError, "round_to='8' is not a whole number"),
        (lambda: rc.plan(MODEL, INPUTS, BUDGET, round_to=1.5), ArgumentError, "round_to=1.5 is not a whole number"),
        (lambda: rc.sensitivity(MODEL, INPUTS, density="a"), ArgumentError, "density='a' is not a number"),
        (lambda: rc.masks(MODEL, "a"), ArgumentError, "density='a' is not a number"),
        (lambda: rc.plan(MODEL, INPUTS, BUDGET, device=3), DeviceError, "device=3 is not a device. Give a profile"),
        (lambda: rc.plan(MODEL, INPUTS, BUDGET, size_of=[1]), ArgumentError, "Try: size_of=['onnx']"),
        (lambda: rc.plan(MODEL, INPUTS, rc.Budget(size="2x"), size_of="onxx"), UnknownNameError, "mean 'onnx'?"),
        (lambda: rc.rectify(MODEL, None, INPUTS), PlanError, "plan=None is not a Plan"),
        (lambda: rc.load(3), ArgumentError, "directory=3 is not a path"),
        (lambda: rc.save(MODEL, 3), ArgumentError, "directory=3 is not a path"),
    ],
)
def test_other_arguments_of_a_wrong_type(call: Callable[[], Any], error: type[ReconveneError], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        call()


def test_a_call_that_python_refuses_is_refused_in_pythons_words() -> None:
    with pytest.raises(TypeError, match=r"plan\(\) missing 1 required positional argument: 'budget'"):
        rc.plan(MODEL, INPUTS)


DATA = [(INPUTS, torch.tensor([1]))]


@pytest.mark.parametrize("criterion", ["synflow", "snip", "grasp", "magnitude", "random"])
def test_models_inputs_and_data_of_inference_mode_give_what_they_give_outside(criterion: str) -> None:
    def plan(model: nn.Module, inputs: torch.Tensor, target: torch.Tensor) -> str:
        return rc.plan(
            model, inputs, BUDGET, criterion, [(inputs, target)], evaluator="density", verify=False
        ).to_json()

    expected = plan(network(), INPUTS, DATA[0][1])
    with torch.inference_mode():
        model, inputs, target = network(), INPUTS.clone(), DATA[0][1].clone()
        assert plan(network(), INPUTS, DATA[0][1]) == expected, "called within"
        assert torch.is_inference_mode_enabled()
    assert plan(model, inputs, target) == expected, "made within"


def test_the_small_model_of_a_call_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        small = rc.prune(network(), INPUTS, BUDGET)
    small(INPUTS).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("verb", ["groups", "plan", "measure"])
def test_modules_nested_deeper_than_a_stack(verb: str) -> None:
    with pytest.raises(ModelError, match="levels deep"):
        VERBS[verb](nested(2100))


def test_modules_nested_deeper_than_python_calls_can_be_measured() -> None:
    limit = sys.getrecursionlimit()
    assert rc.measure(nested(1500), INPUTS, latency=False).params == 8 * 28
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("verb", ["groups", "plan", "measure"])
def test_a_forward_pass_that_calls_itself_for_ever(verb: str) -> None:
    class Endless(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.forward(x)

    with pytest.raises(ResourceError, match=r"nested calls.*sys.setrecursionlimit"):
        VERBS[verb](Endless(8, 8))


@pytest.mark.parametrize("pair", ["width=inf", "width=-inf", "width=nan", "width=1e999"])
def test_arguments_of_models_are_finite(pair: str) -> None:
    with pytest.raises(ModelError, match="not finite"):
        parse_arguments([pair])
    with pytest.raises(ModelError, match="not finite"):
        resolve_address("resnet20", {"width": float(pair.partition("=")[2])})


def test_inputs_larger_than_the_machine_are_refused_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match="3x99999999999999999999x3 takes"):
        example_inputs((3, 99999999999999999999, 3))
    monkeypatch.setattr(resources, "machine_memory", lambda: 1000)
    assert example_inputs((1, 10, 20)).shape == (1, 1, 10, 20)
    with pytest.raises(ResourceError, match=r"1x11x25 takes .*--input"):
        example_inputs((1, 11, 25))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("u1")),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_memory_that_runs_out_on_the_way_is_an_error_of_ours(error: Exception) -> None:
    class Greedy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(ResourceError, match="not enough memory"):
        rc.groups(Greedy(2, 2), torch.randn(1, 2))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resnet20", "--params", "2x", "--model-arg", "width=inf"], "not finite"),
        (["resnet20", "--params", "2x", "--model-arg", "width=1e9"], "not enough memory"),
        (["resnet20", "--params", "2x", "--model-arg", "width=1e300"], "cannot be built"),
        (["resnet20", "--params", "2x", "--input", "3x1000000x1000000"], "smaller shape"),
        (["deep.py:make", "--allow-import", "--params", "2x", "--input", "3x8x8"], " deep"),
        (
            ["deep.py:fail", "--allow-import", "--params", "2x", "--input", "3x8x8"],
            "ZeroDivisionError: by hand (deep.py",
        ),
        (["resnet50", "--params", "2x"], "torchvision:resnet50"),
        (["torchvison:resnet18", "--params", "2x"], "Did you mean 'torchvision'?"),
        (["deep", "--params", "2x"], "deep.py:FUNCTION"),
        (["nowhere:make", "--params", "2x", "--allow-import"], "nowhere.py"),
        (["nowhere.py:make", "--params", "2x", "--allow-import"], "no file"),
        (["deep:mak", "--params", "2x", "--allow-import"], "Did you mean 'make'?"),
        ([*SMALL, "--criterion", "synflwo"], "Did you mean 'synflow'?"),
        ([*SMALL, "--criterion", "mag"], "Did you mean 'magnitude'?"),
    ],
)
def test_the_command_line_says_the_same_in_one_line(
    arguments: list[str],
    said: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "deep.py").write_text(
        "from torch import nn\n\n"
        "def make():\n    model = nn.Conv2d(3, 8, 3)\n    for _ in range(2100):\n        model = nn.Sequential(model)\n"
        "    return nn.Sequential(model, nn.Flatten())\n\n"
        "def fail():\n    raise ZeroDivisionError('by hand')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "deep", raising=False)
    assert said in trouble(capfd, "prune", *arguments, "-o", str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_command_that_is_misspelt(capfd: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'prune'?" in trouble(capfd, "prun", code=2)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A command line whose command has a fault; the temporary folder is of the test's own."""

    def run(self: PruneCommand) -> None:
        raise KeyError("a fault\nof ours")

    monkeypatch.setattr(PruneCommand, "run", run)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    return ["prune", *SMALL, "-o", str(tmp_path / "a")]


def test_an_unforeseen_error_is_one_line_and_a_file(
    broken: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(broken) == 70
    out, err = capfd.readouterr()
    (trace,) = tmp_path.glob("reconvene-*.log")
    assert out == "" and len(err.splitlines()) == 1
    assert "KeyError" in err and "a fault" in err and str(trace) in err
    text = trace.read_text()
    assert "Traceback" in text and "in run" in text and "KeyError" in text and os.stat(trace).st_mode & 0o077 == 0


def test_debug_shows_the_trace_and_writes_no_file(
    broken: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*broken, "--debug"]) == 70
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" in err and "in run" in err
    assert err.splitlines()[-1].startswith("reconvene prune: unforeseen KeyError")
    assert not list(tmp_path.glob("*.log"))


def test_a_full_disk_does_not_hide_the_error(
    broken: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli.tempfile, "NamedTemporaryFile", full)
    assert main(broken) == 70
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1 and "KeyError" in err and "--debug" in err


def test_debug_shows_where_an_error_of_ours_came_up_and_keeps_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "vgg17", "--debug"]) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("reconvene inspect: unknown model 'vgg17'")


def test_warnings_of_libraries_are_kept_off_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(self: PruneCommand) -> None:
        warnings.warn("a hint to whoever writes code", DeprecationWarning, stacklevel=1)
        warnings.warn("another", UserWarning, stacklevel=1)
        raise ModelError("an error")

    monkeypatch.setattr(PruneCommand, "run", run)
    monkeypatch.setattr(sys, "warnoptions", [])
    for words, shown in (([], False), (["--debug"], True)):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)
            assert main(["prune", *SMALL, "-o", "nowhere", *words]) == 1
        assert ("another" in capfd.readouterr().err) == shown
