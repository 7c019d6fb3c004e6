"""``reconvene report``, and the order of the help's headings about limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconvene.cli import main
from reconvene.cli.help_text import help_text
from reconvene.cli.prune import PruneCommand
from support.cli_calls import answer, trouble

SMALL = ["resnet20", "--model-arg", "width=0.25"]


def test_the_report_is_written_from_what_the_artifact_knows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "small"
    answer(capfd, "prune", *SMALL, "--params", "2x", "-o", str(folder))
    assert not (folder / "report.html").exists()
    assert answer(capfd, "report", str(folder))["report"] == str(folder / "report.html")
    assert "fewer parameters" in (folder / "report.html").read_text()
    assert "nothing to set beside it" in trouble(capfd, "report", str(dense(tmp_path / "dense")))
    assert "no artifact" in trouble(capfd, "report", str(tmp_path / "nowhere")).lower()


def dense(folder: Path) -> Path:
    import reconvene as rc
    from reconvene.models import ModelSource

    source = ModelSource("resnet20", {"width": 0.25}, (3, 32, 32))
    rc.save(source.build(), folder, source=source)
    return folder


def test_limits_of_every_network_come_first_in_the_help() -> None:
    text = help_text("prune", PruneCommand)
    places = [text.index(f"\n{word}") for word in ("how small:", "what a limit is about:", "limits of special")]
    assert places == sorted(places)
    assert text.index("--params LIMIT") < text.index("--device PROFILE") < text.index("--rotations LIMIT")


def test_a_plain_number_that_no_network_keeps_is_taken_for_a_factor_first(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", *SMALL, "--macs", "4", "-o", "never"]) == 1
    words = capfd.readouterr().err
    assert "no widths keep this budget. A plain number is an amount: did you mean '4x'? macs 4" in words
    assert "0 % of" not in words
