"""Int8 files compiled for the chip that an artifact was pruned for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from reconvene import artifact
from reconvene.costs.cost_file import CompilerSettings, cost_file
from reconvene.deploy import Exported
from reconvene.deploy.npu import compile_file


def compiler_for(folder: Path, chip: str | None) -> CompilerSettings | None:
    """How int8 files are compiled for a chip, by default that of the artifact; ``None`` where it has no compiler."""
    pruning = artifact.Artifact.open(folder).pruning
    chip = chip or (pruning.chip if pruning else None)
    return None if chip is None else cost_file(chip).compiler


def with_compiled(exported: Exported, compiler: CompilerSettings, folder: Path, *, dense: bool = False) -> Exported:
    """The same export with the compiled file beside it, and notes on what the compiler says of it.

    Where that is the ``folder``'s own network on the chip that it was planned for, the budget is held against it again:
    the compiler packs weights, and trained ones pack otherwise than fresh ones.
    """
    compiled = compile_file(exported.path, exported.path.parent, compiler)
    notes = [f"{compiled.path.name} for {compiler.accelerator}: {compiled}, as its compiler {compiler.name} says"]
    plan = artifact.read_plan(folder)
    if plan is not None and not dense and compiler == compiler_for(folder, None):
        amounts = {"cycles": compiled.cycles, "sram": compiled.sram, "flash": compiled.flash}
        artifact.add_measurements(folder, {"compiled": amounts})
        notes += exceeded(amounts, plan.limits)
    return replace(
        exported,
        files=(*exported.files, compiled.path),
        bytes=exported.bytes + compiled.path.stat().st_size,
        notes=(*exported.notes, *notes),
    )


def exceeded(amounts: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """A warning for every limit that a compiled file breaks."""
    return [
        f"warning: {value:,} {name} are over the budget of {limits[name]:,.0f}: the compiler packs these weights less "
        f"than those that were planned with. Plan with a limit {1 - limits[name] / value:.0%} lower, and train again"
        for name, value in amounts.items()
        if name in limits and value > limits[name]
    ]
