"""The help and mistakes on a command line: groups, an example, one line that says what was meant."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from reconvene import cli
from reconvene.cli.glossary import _WORDS, words_page
from reconvene.cli.help_text import _texts
from support.paths import ROOT


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_has_groups_an_example_and_no_defaults_that_say_nothing(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: reconvene {command}" in text and f"for example:\n  reconvene {command}" in text
    assert "None" not in text and "╭" not in text and "in every command:" in text
    assert "reconvene --words" in text
    assert ("--seed" in text) == (command not in ("fleet", "compare", "compress", "push", "pull", "report"))
    assert max(map(len, text.splitlines())) <= 100
    options = re.findall(r"^  (?:-\w, )?--([\w-]+)", text, re.MULTILINE)
    assert len(options) == len(set(options)), "each option is said once"


@pytest.mark.parametrize("line", ["--words", "--help", "prune --help", "device list"])
def test_a_reader_that_has_gone_ends_a_command_quietly(line: str) -> None:
    """As with ``reconvene --words | head -5``."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "reconvene", *line.split()]
    ended = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (ended.returncode, ended.stderr) == (1, "")


def options_of(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[set[str], str]:
    """The options that a command's help lists, and its text on one line."""
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.MULTILINE)), " ".join(text.split())


def test_the_help_names_options_of_its_own_command_or_says_of_which(capsys: pytest.CaptureFixture[str]) -> None:
    options = {command: options_of(command, capsys) for command in cli.COMMANDS}
    for command, (own, text) in options.items():
        for before, option in re.findall(r"([\w.,()]*) \(?(--[a-z][\w-]*)", text):
            known = {"--words"} if before == "reconvene" else options.get(before, (own,))[0]
            anywhere = command == "device" and option == "--device"  # what its profile is for
            assert option in known or anywhere, f"{command}: {before} {option}"


def test_every_example_of_the_help_names_options_that_there_are() -> None:
    from reconvene.cli.mistakes import check_options

    for name, (kind, _) in cli.COMMANDS.items():
        command = getattr(__import__(f"reconvene.cli.{name}", fromlist=[kind]), kind)
        for line in command.command_lines:
            check_options(name, command, line.split()[2:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("prune x -o y --mdel-arg a=1", "there is no option --mdel-arg. Did you mean '--model-arg'?"),
        ("export x --model-arg a=1", "there is no option --model-arg. It is one of reconvene inspect, prune, "),
        ("fleet x --seed 3", "there is no option --seed. It is one of reconvene"),
        ("prune", "MODEL and -o, --output DIR are missing"),
        ("train x --epochs a", "Error parsing --epochs: a is not of the type INT"),
        ("train x --schedule a", "invalid choice 'a' for argument '--schedule'"),
    ],
)
def test_a_mistake_is_one_line_with_what_was_meant(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"reconvene {words.split()[0]}: {said}") and captured.err.count("\n") == 1
    assert captured.err.rstrip().endswith("--help") and not captured.out


def test_a_command_line_without_mistakes_reads_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(owner: object) -> str:
        raise AssertionError(f"{owner} is read")

    monkeypatch.setattr("reconvene.cli.help_text.inspect.getsource", read)
    monkeypatch.setattr("reconvene.cli.help_text._texts", _texts.__wrapped__)
    command = cli._parse("prune", ["vgg16_bn", "--params", "2x", "-o", "out"])
    assert getattr(command, "model", "") == "vgg16_bn"
    with pytest.raises(AssertionError, match="is read"):
        cli._parse("prune", ["vgg16_bn", "--parms", "2x", "-o", "out"])


def test_the_program_ends_without_a_search_for_cycles() -> None:
    code = (
        "import gc, sys; from reconvene.__main__ import program; sys.argv = ['reconvene', '--version']; "
        "assert program() == 0 and gc.get_freeze_count() > 1000"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_glossary_is_in_the_program_and_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--words"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in _WORDS)
    assert list(_WORDS) == sorted(_WORDS, key=str.lower)
    assert (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8") == words_page()
