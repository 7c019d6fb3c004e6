"""One process at a time in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reconvene.errors import TrainingError
from reconvene.utils.locks import alone_in
from reconvene.utils.progress import notes_to

HOLD = """
import sys
from pathlib import Path
from reconvene.errors import TrainingError
from reconvene.utils.locks import alone_in
with alone_in(Path(sys.argv[1]), error=TrainingError):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "in\n"
    with pytest.raises(TrainingError, match="another process is at work in"), alone_in(tmp_path, error=TrainingError):
        pass
    holder.kill()
    holder.wait()
    with alone_in(tmp_path, error=TrainingError), alone_in(tmp_path / "other", error=TrainingError):
        assert not list(tmp_path.iterdir()), "the lock is not among the results"


def test_where_no_lock_can_be_written_work_goes_on_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file" / "no folder"))
    said: list[str] = []
    with notes_to(said.append), alone_in(tmp_path, error=TrainingError):
        pass
    assert len(said) == 1 and "is not locked against other processes" in said[0]
