"""Room in the budget of the whole for operations that a later stage puts in."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from reconvene import artifact
from reconvene.costs import COSTS, Budget, read_budget
from reconvene.deploy import measure, time_variants
from reconvene.errors import ArtifactError, BudgetError
from reconvene.planning.schedule import amount_text
from reconvene.utils.files import read_regular, write_atomic
from reconvene.utils.progress import note, stage
from reconvene.workflow.compression.device_time import seconds_on
from reconvene.workflow.compression.replace_stage import ReplaceStage
from reconvene.workflow.compression.stage import StageWork
from reconvene.workflow.compression.weighing import exported_files

_COUNTED = ("params", "macs")
_REPEATS = 15
ROOM = "budget.json"
"""In the stage's folder: measured times differ, and a stage that was stopped goes on with the same limits."""


@dataclass(frozen=True)
class _Measured:
    """A network as its files: amounts by cost, and the ONNX file, which is timed."""

    amounts: dict[str, float]
    file: Path | None


def with_room(work: StageWork, *, formats: Sequence[str], device: str | None) -> Budget:
    """The budget of the whole, less what ``replace`` stages after this one add to the network of ``work``.

    The forms are chosen for the network as it is now, by the options of those stages, and files with and without them
    are compared: a form adds as many bytes to a wide network as to a narrow one, or more. ``latency`` is divided by the
    ratio of their times where the forms are slower.

    Args:
        work: of the stage that keeps the budget; its folder keeps the limits.
        formats: of the files that ``size`` is about.
        device: whose profile predicts ``latency``; None: this machine, which measures it.

    Raises:
        BudgetError: the forms alone take all of a limit.
        ModelError: an operation that may not stay cannot be replaced, so nothing is cut first.
        DeviceError: the profile of the device does not have the forms.
    """
    assert work.budget is not None, "checked when the recipe was read"
    later = [entry for entry in work.later if isinstance(entry, ReplaceStage)]
    limited = "latency" in work.budget.asked
    timed = limited and device is None
    limits = [name for name in ("size", *_COUNTED) if name in work.budget.asked]
    if not later or not (limits or limited):
        return work.budget
    if (path := work.folder / ROOM).exists():
        return Budget(**json.loads(read_regular(path, limit=2**20, error=ArtifactError)))
    model = artifact.load(work.before, allow_import=work.allow_import).eval()
    sized = formats if "size" in limits else ()
    with stage("leaving room for operations"), tempfile.TemporaryDirectory() as folder:
        before, dense = _measured(model, work, sized, Path(folder) / "before", timed), model
        for entry in later:
            model = entry.choice(model, work).model.eval()
        after = _measured(model, work, sized, Path(folder) / "after", timed)
        slower = _times_slower(before, after, work) if timed else 1.0
        if limited and device is not None:
            slower = max(seconds_on(device, model, work) / seconds_on(device, dense, work), 1.0)
    added = {name: max(after.amounts[name] - before.amounts[name], 0.0) for name in limits}
    budget = _less(work.budget, added, slower)
    write_atomic(path, (json.dumps(budget.asked, indent=1) + "\n").encode())
    return budget


def _measured(model: nn.Module, work: StageWork, sized: Sequence[str], folder: Path, timed: bool) -> _Measured:
    """What a network costs, in these formats and in the precision that the recipe ends with."""
    counts = measure(model, work.inputs, latency=False)
    amounts: dict[str, float] = {name: getattr(counts, name) for name in _COUNTED}
    quantize = None if work.last_precision == "fp32" else "int8"  # bits that are not decided yet are int8 here
    files = exported_files(model, work, [*sized, *(["onnx"] if timed else [])], folder, quantize=quantize)
    amounts["size"] = max((files[name].bytes for name in sized), default=0)
    return _Measured(amounts, files["onnx"].path if "onnx" in files else None)


def _times_slower(before: _Measured, after: _Measured, work: StageWork) -> float:
    """Time of the file with the forms over the time of the file without them; 1 where they are no slower."""
    assert before.file is not None and after.file is not None
    files = {"before": before.file, "after": after.file}
    timed = time_variants(files, work.inputs, runtimes=("onnxruntime",), repeats=_REPEATS, seed=work.seed)
    seconds = [timed.row("onnxruntime", name).median for name in files]
    return max(seconds[1] / seconds[0], 1.0)


def _less(budget: Budget, added: Mapping[str, float], slower: float) -> Budget:
    """The budget without what the forms take, said in a note."""
    amounts, kept = dict(budget.asked), []
    for name, more in added.items():
        limit = read_budget(name, budget.asked[name]).of(0.0)
        unit = COSTS[name].unit
        if more >= limit:
            raise BudgetError(
                f"the operations that a later replace stage puts in take {unit.phrase(more)} of {name}, and the limit "
                f"is {unit.phrase(limit)}. Ask for more, or replace less",
                {name: more},
            )
        if more:
            amounts[name] = amount_text(name, limit - more)
            kept.append(f"{unit.phrase(more)} of {name}")
    if slower > 1:
        limit = read_budget("latency", budget.asked["latency"]).of(0.0)
        amounts["latency"] = amount_text("latency", limit / slower)
        kept.append(f"{1 - 1 / slower:.0%} of latency")
    if kept:
        note(f"room for the operations of a later replace stage: {', '.join(kept)}")
    return Budget(**amounts)
