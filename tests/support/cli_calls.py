"""What the tests of the command line share: how a command is run, and what it may say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reconvene import artifact
from reconvene.cli import main

SMALL = ["resnet20", "--model-arg", "width=0.25", "--params", "2x"]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def answer(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capfd.readouterr()
    assert main([*arguments, "--json"]) == 0, capfd.readouterr().err
    return json.loads(capfd.readouterr().out)


def trouble(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """What stderr says last; for exit code 1 that is one line, with nothing on stdout."""
    capfd.readouterr()
    assert main(list(arguments)) == code
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    return err.strip().splitlines()[-1] if code == 1 else err


def prune(folder: Path, *more: str) -> dict[str, bytes]:
    assert main(["prune", *SMALL, "-o", str(folder), *more]) == 0
    return {name: (folder / name).read_bytes() for name in (artifact.PLAN, artifact.WEIGHTS, artifact.MANIFEST)}
