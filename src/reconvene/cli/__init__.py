"""The command line: one file a command, each a dataclass that tyro turns into a parser.

Nothing here imports torch before a command runs, so that help and usage errors come at once. Exit codes: 0 done, 1
could not do it (one clear line on stderr), 2 usage, 70 an error that nobody foresaw (one line, and a file with the
trace), 130 interrupted, 143 terminated (SIGTERM).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from reconvene._version import __version__
from reconvene.cli.glossary import words_text
from reconvene.errors import ReconveneError, suggestion
from reconvene.utils.plugins import load_plugins
from reconvene.utils.progress import is_first_process, listened_by, listening
from reconvene.utils.progress_display import Display

if TYPE_CHECKING:
    from reconvene.cli.command import Answer, Command

COMMANDS: dict[str, tuple[str, str]] = {
    "inspect": ("InspectCommand", "groups, widths, sensitivity, what is pinned and why"),
    "prune": ("PruneCommand", "make a model smaller, not trained yet or trained, into an artifact"),
    "train": ("TrainCommand", "train an artifact; goes on where it was stopped"),
    "search": ("SearchCommand", "width and bits of a trained artifact by differentiable search, one run, budget kept"),
    "export": ("ExportCommand", "write the file that a runtime loads, and verify it"),
    "bench": ("BenchCommand", "time dense beside pruned, in each runtime"),
    "evaluate": ("EvaluateCommand", "accuracy, calibration, worst class, corruptions"),
    "report": ("ReportCommand", "write the page about a pruned artifact from what it knows"),
    "device": ("DeviceCommand", "measure what layers cost on this device, or list what was measured"),
    "fleet": ("FleetCommand", "a network for every device of a fleet, from one file"),
    "fit": ("FitCommand", "which of several architectures suits a device"),
    "compare": ("CompareCommand", "run an experiment: arms x models x data x budgets x seeds"),
    "compress": ("CompressCommand", "prune, replace, train, distil, quantise and export in any order, by a recipe"),
    "replace": ("ReplaceCommand", "cheaper forms of non-linear operations, or those that a chip has"),
    "push": ("PushCommand", "share an artifact on the Hugging Face hub, with a model card"),
    "pull": ("PullCommand", "fetch an artifact from the Hugging Face hub"),
    "run": (
        "RunCommand",
        "prune, train, export, bench and report on one line; alone, the README's example",
    ),
}
"""Command to the class in the module of the same name, and what it does."""


UNFORESEEN = 70
"""Exit code of an error that nobody foresaw: EX_SOFTWARE of sysexits.h."""
LONGEST_MESSAGE = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        print(end="", flush=True)  # at exit, Python itself would report a reader that has gone
    except OSError as error:
        # Whoever read our output has gone (head, less), or a disk is full. Python must not complain at exit as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"reconvene: {error}", file=sys.stderr)
        return 1
    return code


def _run(tokens: list[str]) -> int:
    if not tokens or tokens[0] in ("-h", "--help"):
        print(overview(), file=sys.stdout if tokens else sys.stderr)
        return 0 if tokens else 2
    if tokens[0] == "--version":
        print(f"reconvene {__version__}")
        return 0
    if tokens[0] == "--words":
        print(words_text())
        return 0
    if tokens[0] not in COMMANDS:
        hint = suggestion(tokens[0], COMMANDS)
        print(f"reconvene: unknown command {tokens[0]!r}.{hint} There are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        with terminable():
            return _carry_out(tokens[0], tokens[1:])
    except SystemExit as stop:  # tyro has said on stderr what is wrong, or shown the help
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print(f"reconvene {tokens[0]}: interrupted", file=sys.stderr)
        return 130
    except Terminated:
        print(f"reconvene {tokens[0]}: terminated", file=sys.stderr)
        return 143


class Terminated(BaseException):
    """SIGTERM has come. No Exception, so that nothing on the way takes it for a failure it can go on after."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that unfinished files are removed; by default it leaves them."""
    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != process:  # a child that was forked from here: it ends as any other process does
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # a second one must not stop the tidying up
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def library_warnings(*, shown: bool) -> Iterator[None]:
    """Keep warnings of libraries off the terminal: they speak to whoever writes code, and Reconvene raises none.

    Python's own switches (``-W``, PYTHONWARNINGS) go before.
    """
    with warnings.catch_warnings():
        if not shown and not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def shown_progress(name: str) -> Iterator[Any]:
    """Show what is at work on stderr, and keep a line for every step that is done; yields a stream for others.

    Under torchrun only the first process shows anything.
    """
    if not is_first_process():
        with listening(False):
            yield sys.stderr
        return
    with Display(f"reconvene {name}", keep=True) as display, listened_by(display):
        yield display.output


def overview() -> str:
    """What ``reconvene --help`` prints."""
    lines = [f"  {name:<9} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            f"reconvene {__version__}: smaller networks before any training money is spent",
            "",
            "usage: reconvene COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "`reconvene COMMAND --help` shows the options of one, with an example. `reconvene run` is a good start.",
            "`reconvene --words` says what plan, group, artifact and the like mean (docs/glossary.md).",
        ]
    )


def _parse(name: str, tokens: list[str]) -> Command:
    import tyro

    from reconvene.cli.command import UsageError
    from reconvene.cli.help_text import help_text
    from reconvene.cli.mistakes import check_options, in_a_line

    command_type: type[Command] = getattr(import_module(f"reconvene.cli.{name}"), COMMANDS[name][0])
    if not {"-h", "--help"}.isdisjoint(tokens):
        print(help_text(name, command_type))
        raise SystemExit(0)
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written), contextlib.redirect_stdout(written):
            return tyro.cli(command_type, prog=f"reconvene {name}", args=tokens, config=config, registry=_registry())
    except SystemExit:
        check_options(name, command_type, tokens)  # a better word for what is wrong; it reads the source of all options
        raise UsageError(in_a_line(written.getvalue(), name, command_type)) from None


def _registry() -> Any:
    """How words become values: a path that is empty is a mistake, and would be the folder one is in."""
    from pathlib import Path

    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    def read(tokens: list[str]) -> Path:
        if not tokens[0]:
            raise ValueError("an empty path. For the folder you are in, say .")
        return Path(tokens[0])

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def path_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
        if info.type is not Path:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=read,
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _carry_out(name: str, tokens: list[str]) -> int:
    debug = "--debug" in tokens
    try:
        load_plugins()
    except ReconveneError as error:
        return _say(name, error, debug=debug)
    from reconvene.cli.command import UsageError

    try:
        command = _parse(name, tokens)
        if not 0 <= (seed := getattr(command, "seed", 0)) < 2**63:
            raise UsageError(f"--seed {seed} is not a whole number from 0 to 2^63 - 1")
        # Exporters and the like print as they please: stdout is for the answer alone.
        with shown_progress(name) as output, contextlib.redirect_stdout(output), library_warnings(shown=debug):
            answer = command.run()
        if is_first_process():
            _print(answer, as_json=command.json)
            if answer.trouble:
                print(f"reconvene {name}: {answer.trouble}", file=sys.stderr)
        if answer.trouble:
            return 1
    except UsageError as error:
        print(f"reconvene {name}: {error}", file=sys.stderr)
        return 2
    except ReconveneError as error:
        return _say(name, error, debug=debug)
    except BrokenPipeError:
        raise
    except OSError as error:  # refused by the system where no code foresaw it: a full disk, a folder taken away
        return _say(name, error, debug=debug)
    except Exception as error:  # noqa: BLE001 -- the last line of defence: no trace on the terminal unless asked for
        from reconvene.utils.resources import resource_error

        if (explanation := resource_error(error)) is not None:
            explanation.__cause__ = error
            return _say(name, explanation, debug=debug)
        return unforeseen(name, error, debug=debug)
    return 0


def _say(name: str, error: Exception, *, debug: bool) -> int:
    """One line on stderr, after the trace where that was asked for; the exit code."""
    if debug:
        traceback.print_exception(error)
    print(f"reconvene {name}: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def unforeseen(name: str, error: Exception, *, debug: bool) -> int:
    """Report an error of no kind of ours: its name, and where its trace is. Returns the exit code."""
    trace = "".join(traceback.format_exception(error))
    words = " ".join(str(error).split())
    line = f"reconvene {name}: unforeseen {type(error).__name__}{': ' * bool(words)}{words[:LONGEST_MESSAGE]}"
    if debug:
        print(f"{trace}\n{line}", file=sys.stderr)
        return UNFORESEEN
    path = _keep_trace(f"reconvene {__version__}, {shlex.join(['reconvene', *sys.argv[1:]])}\n\n{trace}")
    place = f"The full trace: {path}" if path else "With --debug the full trace is shown"
    print(f"{line}. {place}. Please report it", file=sys.stderr)
    return UNFORESEEN


def _keep_trace(text: str) -> str:
    """A new file for it in the system's folder for temporary files, and its path; empty where it takes none."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="reconvene-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:
        return ""
    return file.name


def _print(answer: Answer, *, as_json: bool) -> None:
    text = json.dumps(answer.data, indent=2, allow_nan=False) if as_json else answer.text
    encoding = sys.stdout.encoding or "utf-8"  # names of files need not be text in any encoding
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
