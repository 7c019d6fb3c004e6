"""Pruning in steps, killed with SIGKILL at any moment, goes on to the bytes of a run that was never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT, TESTS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def scenarios(folder: Path, kills: int) -> list[dict[str, Any]]:
    paths = [str(ROOT / "src"), str(TESTS), *sys.path]
    done = subprocess.run(
        [sys.executable, TESTS / "support" / "step_kills.py", folder, str(kills)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same(whole: dict[str, Any], killed: list[dict[str, Any]]) -> None:
    own = ("model.safetensors", "plan.json", "reconvene.json")
    assert sorted(whole["files"]) == sorted([*own, "dense/model.safetensors", "dense/reconvene.json"])
    for scenario in killed:
        assert scenario["files"] == whole["files"], scenario["name"]


def test_a_killed_pruning_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, *killed = scenarios(tmp_path, 0)
    assert [scenario["kills"] for scenario in killed] == [2]
    assert_same(whole, killed)


@pytest.mark.slow
def test_killed_twenty_times_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, *killed = scenarios(tmp_path, 20)
    assert sum(scenario["kills"] for scenario in killed) >= 20
    assert_same(whole, killed)
