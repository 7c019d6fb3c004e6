"""No command is silent for long: what a terminal sees, by the clock of the processor."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="pseudo-terminals are of Unix")

LONGEST = 2.0
"""Seconds of work between two signs of life, by the processor time of the command, which load does not move."""
COMMANDS = """
import sys, time
from reconvene.cli import main
for line in (
    "inspect resnet20 --model-arg width=0.25",
    "prune resnet20 --model-arg width=0.25 --params 2x -o {0}/a",
    "train {0}/a --limit 400 --epochs 4 --batch-size 20",
    "evaluate {0}/a --limit 100",
    "export {0}/a",
    "bench {0}/a --runtimes eager,onnxruntime --repeats 3",
):
    assert main(line.format(sys.argv[1]).split()) == 0, line
"""


def worked(process: int) -> float:
    """Processor seconds of a process so far, all its threads together."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processor time of another process is read from /proc")
def test_no_command_works_in_silence(tmp_path: Path) -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.environ["COLUMNS"] = "100"
        os.execv(sys.executable, [sys.executable, "-c", COMMANDS, str(tmp_path)])
    seen, gaps, last = b"", [], 0.0
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        now = worked(process)
        gaps.append((now - last, seen[-80:]))
        seen, last = seen + piece, now
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, seen[-2000:].decode()
    longest = max(gaps[1:])  # before the first sign Python itself starts
    assert longest[0] <= LONGEST, f"{longest[0]:.1f} s of work in silence after {longest[1]!r}"
    for sign in (b"finding groups", b" left | training "):
        assert sign in seen, sign
