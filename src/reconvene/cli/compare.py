"""``reconvene compare EXPERIMENT.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, UseAppendAction, arg

from reconvene.cli.command import Answer, Command, UsageError
from reconvene.cli.workers_options import WorkersOptions
from reconvene.utils.numbers import plural
from reconvene.utils.progress import note

if TYPE_CHECKING:
    from reconvene.experiments.config import Experiment, Run


@dataclass(kw_only=True)
class CompareCommand(WorkersOptions, Command):
    """Run every combination that a file asks for, each in a process of its own; stopped, the same command goes on.

    Seeds are the file's.
    """

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene compare experiment.toml -o out/compare",)
    heading: ClassVar[str] = "which runs"

    experiment: Positional[Annotated[Path, arg(metavar="EXPERIMENT")]]
    """A TOML or YAML file: arms, models, data, budgets, seeds. See docs/cli.md."""
    output: Annotated[Path, arg(aliases=("-o",))] = Path("out/compare")
    """Folder for results.jsonl, table.md, plots, and unfinished runs."""
    results: Path | None = None
    """Keep the results in this file instead, which may hold those of other experiments."""
    data: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="NAME=SPEC")]] = ()
    """Where a data set of the file lies on this machine."""
    only: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="WORD")]] = ()
    """Only runs whose description has one of these words in it."""
    seconds: Annotated[float | None, arg(metavar="N")] = None
    """Stop after so many seconds, wherever it is. The same command goes on."""
    list: bool = False
    """Only say which runs there are."""

    def run(self) -> Answer:
        """Run what is not there yet, then summarise all of it."""
        from reconvene.errors import ExperimentError
        from reconvene.experiments import compare, read_experiment
        from reconvene.experiments.compare import select_runs
        from reconvene.experiments.pages import write_pages
        from reconvene.experiments.sources import require_data
        from reconvene.experiments.summary import as_text, caveats, over_budget, summarise

        if self.seconds is not None and self.seconds <= 0:
            raise UsageError(f"--seconds {self.seconds:g}: it is above 0")
        self.check_workers()
        sources = self._sources()
        experiment = read_experiment(self.experiment, sources=sources)
        runs = select_runs(experiment, self.only)
        if self.ray is None:  # nodes of a cluster have their own data
            require_data(experiment.sources, sources, experiment.places)
        if self.list:
            if self.ray is None:
                self._note_missing_data(experiment, runs)
            return Answer(
                "\n".join(f"{run.key}  {run}" for run in runs),
                {"runs": [{"key": run.key, "what": str(run)} for run in runs]},
            )
        outcome = compare(
            experiment,
            self.results or self.output / "results.jsonl",
            self.output / "unfinished",
            seconds=self.seconds,
            only=self.only,
            workers=self.workers or 1,
            ray=self.ray,
        )
        lines = summarise(outcome.records)
        written = write_pages(lines, self.output)
        if outcome.failed:
            key, first = next(iter(outcome.failed.items()))
            name = next((str(run) for run in experiment.runs if run.key == key), key)
            waiting = outcome.left - len(outcome.failed)  # runs that failed are left too
            raise ExperimentError(
                f"{plural(len(outcome.failed), 'run')} failed, {len(outcome.records)} are done"
                + (f", {waiting} are left" if waiting else "")
                + f". The first that failed, {name}: {first.rstrip('.')}. Results of the others are kept; "
                "the same command tries again"
            )
        left = f"\n{outcome.left} runs are left: the same command goes on." if outcome.left else ""
        table = as_text(lines) if lines else "nothing is done yet"
        sentences = "".join(f"\n{sentence}" for sentence in (over_budget(lines), caveats(lines)) if sentence)
        return Answer(
            table + sentences + left,
            {"records": [*outcome.records], "left": outcome.left, "written": [str(path) for path in written]},
        )

    def _note_missing_data(self, experiment: Experiment, runs: Sequence[Run]) -> None:
        """Say which data are not on this machine: a list of runs needs none."""
        from reconvene.errors import ExperimentError
        from reconvene.experiments.sources import require_data

        try:
            require_data(experiment.sources, [run.data for run in runs], experiment.places)
        except ExperimentError as error:
            note(f"these runs cannot begin here: {error}")

    def _sources(self) -> dict[str, str]:
        pairs = [pair.partition("=") for pair in self.data]
        if wrong := [name for name, equals, spec in pairs if not (name and equals and spec)]:
            raise UsageError(f"--data {wrong[0]} is not NAME=SPEC, such as cifar10=../data/cifar10")
        return {name: spec for name, _, spec in pairs}
