"""The command line: starting up, help, usage, and that its page in the documentation is whole."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys

import pytest

from reconvene import cli
from reconvene.cli import main
from support.cli_calls import python, trouble
from support.paths import ROOT


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["prune", "--help"], ["nothing"], ["prune", "--what"]]
)
def test_help_and_usage_errors_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = "import sys; from reconvene.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capfd.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_and_the_common_options(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capfd.readouterr().out
    assert "--json" in shown and f"reconvene {command}" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage"),
        (["prun"], "There are: inspect, prune"),
        (["prune", "resnet20"], "-o"),
        (["prune", "resnet20", "-o", "out", "--criterium", "snip"], "--criterium"),
        (["prune", "resnet20", "-o", "out"], "a budget is missing"),
        (["prune", "resnet20", "-o", "out", "--params", "2x", "--input", "3xx32"], "--input"),
        (["prune", "resnet20", "--params", "2x", "-o", ""], "an empty path"),
        (["prune", "resnet20", "--params", "2x", "--output="], "an empty path"),
        (["pull", "owner/name", "-o", ""], "an empty path"),
        (["train", ""], "an empty path"),
        (["export", "out", "--bundle", ""], "an empty path"),
        (["export", "out", "--to", ","], "--to"),
        (["export", "out", "--batch", "many"], "auto, free, static"),
        (["export", "out", "--batch", "0"], "auto, free, static"),
        (["export", "out", "--precision", "fp16", "--quantize", "int8", "--data", "digits"], "made from float32"),
        (["export", "out", "--quantize", "int8"], "--data"),
        (["export", "out", "--min-agreement", "95"], "--min-agreement"),
        (["bench", "out", "--calibration-samples", "0"], "--calibration-samples"),
    ],
)
def test_usage_errors_leave_with_2(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert said in trouble(capfd, *arguments, code=2)


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "reconvene", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("reconvene ")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_documentation_knows_every_option(command: str) -> None:
    kind = getattr(importlib.import_module(f"reconvene.cli.{command}"), cli.COMMANDS[command][0])
    text = (ROOT / "docs" / "cli.md").read_text()
    for option in dataclasses.fields(kind):
        if option.name not in ("model", "directory", "experiment", "repository", "what", "file"):  # positional
            assert re.search(rf"--{option.name.replace('_', '-')}(?![\w-])", text), option.name
