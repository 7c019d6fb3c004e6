"""``reconvene bench DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from reconvene.cli.command import (
    Answer,
    ArtifactFolder,
    Command,
    Importing,
    InputShape,
    Int8Options,
    Seeded,
    UsageError,
    names_in,
    refuse_without,
    require_at_least,
)


@dataclass(kw_only=True)
class BenchCommand(Int8Options, Importing, Seeded, Command):
    """Time the dense network beside the pruned one, in fp32 and int8, in each runtime, in turns, on one thread."""

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene bench out/ --data digits",)
    heading: ClassVar[str] = "how it is timed"

    directory: ArtifactFolder
    """Folder of the artifact."""
    input: InputShape = None
    """Shape of one example. By default what the artifact says."""
    runtimes: Annotated[str, arg(metavar="RUNTIME[,RUNTIME]")] = "installed"
    """Runtimes, separated by commas: onnxruntime, openvino, executorch, litert, ncnn, eager. By default those that are
    installed."""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """Also time int8, calibrated on this data, and say how often each file agrees: digits, a hub id, or a path."""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """At most N images of each split of --data."""
    batch: int = 1
    """Examples in one inference."""
    threads: int = 1
    """Threads a runtime may use."""
    repeats: int = 30
    """Rounds of timing; in each round every file runs once."""

    def run(self) -> Answer:
        """Time, keep the result as bench.json, and draw it in the report of a pruned artifact."""
        runtimes = names_in(self.runtimes)
        if not runtimes:
            raise UsageError("--runtimes names no runtime")
        require_at_least(self, ("batch", "threads", "repeats"))
        if self.data is None:
            refuse_without(self, (*self.int8_options, "limit"), "--data")
        int8 = self.int8()
        from reconvene import artifact
        from reconvene.deploy import installed
        from reconvene.workflow import bench, report
        from reconvene.workflow.inputs import DataChoice, dataset_for

        choice = DataChoice(input_shape=self.input, limit=self.limit)
        result = bench(
            self.directory,
            runtimes=installed() if runtimes == ("installed",) else runtimes,
            int8=None if self.data is None else int8,
            data=None if self.data is None else dataset_for(self.directory, self.data, choice),
            batch=self.batch,
            threads=self.threads,
            repeats=self.repeats,
            input_shape=self.input,
            seed=self.seed,
            allow_import=self.allow_import,
        )
        text, answer = [str(result)], {"artifact": str(self.directory), **result.to_dict()}
        untrained = [] if self.data is None else _untrained(self.directory, {row.variant for row in result.rows})
        text += [f"note: {name} is not trained: its agreement and quality say nothing" for name in untrained]
        if artifact.read_plan(self.directory) is not None:  # a dense network has nothing to be set beside
            page = report(self.directory)
            text.append(f"report: {page}")
            answer["report"] = str(page)
        failed = [name for name in result.left_out if " " not in name]
        trouble = f"not timed: {', '.join(failed)}. Why is said below the table" if failed else ""
        return Answer("\n".join(text), answer, trouble)


def _untrained(folder: Path, names: set[str]) -> list[str]:
    """Those of the networks that were timed that were never trained, the dense one first."""
    from reconvene.workflow.origin import stored_variants

    return sorted(names - {name for name, stored in stored_variants(folder).items() if stored.is_trained})
