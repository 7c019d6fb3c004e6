"""Files of a network as they are after training, to be weighed or timed while a stage plans."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from reconvene.deploy import Exported, export
from reconvene.planning.measuring.trained_values import with_trained_values
from reconvene.workflow.compression.stage import StageWork
from reconvene.workflow.deploy import Int8, calibration_of


def exported_files(
    model: nn.Module, work: StageWork, formats: Iterable[str], folder: Path, *, quantize: str | None
) -> dict[str, Exported]:
    """A file a format, with values as training leaves them, since equal tensors are in a file once; not verified.

    Raises MissingExtraError, ExportError.
    """
    names = sorted(set(formats))
    trained = with_trained_values(model) if names else model
    options: dict[str, Any] = {"task": work.dataset.task.name, "seed": work.seed}
    if quantize is not None and names:
        calibration = calibration_of(work.dataset, Int8.samples, seed=work.seed)
        options |= {"quantize": quantize, "calibration": calibration}
    return {
        name: export(trained, folder / name, format=name, example_inputs=work.inputs, verify=False, **options)
        for name in names
    }
