"""What an editor and mypy know of the public functions: a wrong keyword is found, a right one is not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

USER_FILE = """\
import torch
import reconvene as rc

model, x = torch.nn.Linear(8, 4), torch.randn(1, 8)
reveal_type(rc.prune)
small: torch.nn.Module = rc.prune(model, x, rc.Budget(params="2x"), trained=True)
plan: rc.Plan = rc.plan(model, x, rc.Budget(params="2x"), progress=False)
accuracy: float = rc.train("out/", "digits", epochs=1, config=rc.TrainConfig(lr=0.1)).score
counted: int = rc.evaluate("out/", "digits")["pruned"].count
speedup: float = rc.bench("out/", runtimes=["eager"]).rows[0].speedup
name: str = rc.report("out/").name
folder: str = str(rc.run("resnet20", "out/", budget=rc.Budget(params="2x")).folder)
rc.prune(model, x, rc.Budget(params="2x"), criterio="synflow")
rc.train("out/", "digits", epoch=3)
rc.measure(model, x).param
"""


@pytest.mark.slow  # mypy reads PyTorch once, 20 s
def test_mypy_finds_wrong_words_in_a_file_of_a_user_and_no_right_ones(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    (tmp_path / "user.py").write_text(USER_FILE)
    options = ["--cache-dir", str(ROOT / ".mypy_cache" / "user"), "--config-file", "", "--follow-imports", "silent"]
    options += ["--python-executable", sys.executable, "--ignore-missing-imports"]
    out, _, _ = api.run([*options, str(tmp_path / "user.py")])
    # a note on where a function is defined follows its error, on the same line of the file
    lines = {int(match[1]): match[2] for match in re.finditer(r"user\.py:(\d+): (error: .*|note: Revealed .*)", out)}
    assert re.search(r'Revealed type is "def \(model: .*Module', lines.pop(5)), out
    assert 'Unexpected keyword argument "criterio" for "prune"' in lines.pop(13)
    assert 'Unexpected keyword argument "epoch" for "train"' in lines.pop(14)
    assert '"Measurement" has no attribute "param"' in lines.pop(15)
    assert not lines
