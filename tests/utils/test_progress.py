"""Progress: who hears of work, what a terminal shows, and what is left of it."""

from __future__ import annotations

import io
import os
import time

import pytest

from reconvene.utils import progress, progress_display
from reconvene.utils.progress import Stage, listened_by, listening, note, notes_to, stage, track
from reconvene.utils.progress_display import Display, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Displays that look often and wait for nothing."""
    for name, value in {"DELAY": 0.0, "REFRESH": 0.01, "FIRST_LINE": 0.0, "LINES_APART": 0.0}.items():
        monkeypatch.setattr(progress_display, name, value)


def wait_for(stream: io.StringIO, text: str) -> None:
    for _ in range(500):
        if text in stream.getvalue():
            return
        time.sleep(0.01)
    raise AssertionError(f"{text!r} is not in {stream.getvalue()[-300:]!r}")


def test_what_is_left_follows_from_what_was_done_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    work = Stage("training", 100, 40, None)  # 40 were done before: they took no time of this run
    assert work.remaining is None
    now[0] += 10
    work.advance(20)
    assert work.elapsed == 10 and work.remaining == 20
    assert Stage("building", None, 0, None).remaining is None


def test_a_function_hears_of_the_outermost_work_that_has_parts() -> None:
    heard: list[tuple[int, int, str]] = []
    with listening(lambda done, total, name: heard.append((done, total, name))), stage("pruning"):
        for _ in track("ab", "steps", total=2):
            for _ in track("xyz", "batches", total=3):
                pass
    assert heard == [(0, 1, "pruning"), (1, 2, "steps"), (2, 2, "steps")]


def test_a_step_of_a_longer_way_leaves_the_showing_to_it() -> None:
    heard: list[str] = []
    with listening(False), notes_to(heard.append), listening(None), listening(True):
        note("one")
    with notes_to(heard.append), listening(False), listening(True):
        note("two")
    assert heard == ["one"]


def test_nothing_is_shown_where_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(None), stage("pruning", 2) as work:
        work.advance()
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("impatient")
def test_a_terminal_shows_one_line_that_goes_when_the_work_is_done() -> None:
    stream = Terminal()
    with Display(stream=stream) as display, listened_by(display), stage("training", 4) as work:
        work.advance(detail="loss 0.5")
        wait_for(stream, "25% 0 s, about 0 s left | training 1/4: loss 0.5")
        with stage("evaluating"):
            wait_for(stream, "training 1/4 › evaluating")
        print("a warning of a library", file=display.output)
    shown = stream.getvalue()
    assert "\n" not in shown.replace("a warning of a library\n", "")
    assert shown.endswith("\r") or shown.endswith("library\n")
    before = shown[: shown.index("a warning")]
    assert before.endswith("\r"), "the line is taken away before others write"


@pytest.mark.usefixtures("impatient")
def test_the_command_line_keeps_a_line_for_every_step_and_note_but_none_that_failed() -> None:
    stream = Terminal()
    with Display("reconvene prune", keep=True, stream=stream) as display, listened_by(display):
        wait_for(stream, "reconvene prune")
        with stage("pruning"), stage("scoring"):
            note("size is 3 MB")
        with pytest.raises(ValueError, match="broken"), stage("saving"):
            raise ValueError("broken")
    lines = [line.rpartition("\r")[2] for line in stream.getvalue().split("\n")]
    assert lines[:2] == ["  size is 3 MB", "pruning: 0.0 s"]
    assert "saving:" not in stream.getvalue() and "scoring:" not in stream.getvalue()


@pytest.mark.usefixtures("impatient")
def test_a_log_gets_lines_now_and_then() -> None:
    stream = io.StringIO()
    with Display(keep=True, stream=stream) as display, listened_by(display), stage("training", 4) as work:
        work.advance()
        wait_for(stream, "... 25% 0 s, about 0 s left | training 1/4\n")
    assert "\r" not in stream.getvalue()


@pytest.mark.usefixtures("impatient")
def test_a_terminal_of_another_encoding_gets_signs_that_it_has() -> None:
    class Ascii(Terminal):
        encoding = "ascii"  # type: ignore[assignment]

    stream = Ascii()
    with Display(stream=stream) as display, listened_by(display), stage("décoder", 4) as work:
        work.advance(2)
        wait_for(stream, "########-------- 50%")
    assert stream.getvalue().isascii()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_shows_nothing_and_does_not_wait_for_ever() -> None:
    stream = Terminal()
    with Display(stream=stream) as display, listened_by(display), display._lock:
        child = os.fork()
        if child == 0:
            with stage("in the child"):
                note("from the child")
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
