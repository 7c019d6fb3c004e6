"""How good and how large the network of a stage is, by the ONNX file that it would be deployed as."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reconvene import artifact
from reconvene.deploy import Session, export, measure
from reconvene.deploy.runtimes.registry import runtime_of
from reconvene.errors import ArtifactError
from reconvene.training.evaluate import evaluate_split
from reconvene.utils.files import read_regular, write_atomic
from reconvene.utils.progress import stage
from reconvene.workflow.compression.stage import StageWork
from reconvene.workflow.deploy import Int8, calibration_of

STAGE_RESULT = "result.json"
_JUDGED = "judged"
_LIMIT = 2**20


MEASURED = ("params", "macs", "peak_memory", "size", "latency")
"""Costs that a recipe measures of every stage's network and file."""


@dataclass(frozen=True)
class StageResult:
    """What a stage came to.

    Attributes:
        stage: its name; ``number`` from 0, which is the source.
        precision: of the file: ``fp32``, ``int8``, or ``plan`` for the bits that a plan decided.
        score: the task's headline on all test images, computed by the file in ONNX Runtime.
        costs: ``size``: bytes of the file (of the largest, where several formats were exported); ``params``, ``macs``
            and ``peak_memory`` of the network in PyTorch, as ``rc.measure`` counts them.
        file: the ONNX file, in the stage's folder, and its checksum ``sha256``.
    """

    number: int
    stage: str
    precision: str
    headline: str
    score: float
    costs: dict[str, int]
    file: str
    sha256: str


def judge_stage(number: int, name: str, work: StageWork) -> StageResult:
    """Judge the artifact in ``work.folder``, or return what was found before; kept as ``result.json``."""
    if (earlier := _read(work.folder)) is not None:
        return earlier
    model = artifact.load(work.folder, allow_import=work.allow_import).eval()
    inputs = work.inputs
    with stage(f"judging {work.folder.name}"):
        file, size = _file(model, inputs, work)
        with runtime_of(file).open(file, 1) as session:
            evaluation = evaluate_split(FileNetwork(session), work.dataset)
        costs = measure(model, inputs, latency=False)
    result = StageResult(
        number,
        name,
        work.precision,
        work.dataset.task.headline,
        evaluation.score,
        {"params": costs.params, "macs": costs.macs, "peak_memory": costs.peak_memory, "size": size},
        file.name,
        hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    write_atomic(work.folder / STAGE_RESULT, (json.dumps(asdict(result), indent=1, sort_keys=True) + "\n").encode())
    return result


def _file(model: nn.Module, inputs: Tensor, work: StageWork) -> tuple[Path, int]:
    """The ONNX file of a network and its bytes, or those of the largest file that the stage exported itself."""
    exports = artifact.Artifact.open(work.folder).exports
    largest = max((row.bytes for row in exports), default=0)
    for row in exports:
        if row.format == "onnx":
            return work.folder / row.file, largest
    quantising: dict[str, Any] = {}
    if work.precision != "fp32":
        quantising = {
            "quantize": work.precision,
            "calibration": calibration_of(work.dataset, Int8.samples, seed=work.seed),
        }
    exported = export(
        model,
        work.folder,
        example_inputs=inputs,
        name=_JUDGED,
        verify=False,  # the score says what it is worth; the stage ``export`` verifies
        task=work.dataset.task.name,
        seed=work.seed,
        **quantising,
    )
    return exported.path, max(largest, exported.bytes)


class FileNetwork(nn.Module):
    """An exported file that is open, as a module, so that it is evaluated as networks are."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, images: Tensor) -> Any:
        """The file's output for images ``[B, C, H, W]``, or its outputs by name where there are several."""
        outputs = self.session.run(images)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _read(folder: Path) -> StageResult | None:
    path = folder / STAGE_RESULT
    if not path.exists():
        return None
    try:
        return StageResult(**json.loads(read_regular(path, limit=_LIMIT, error=ArtifactError)))
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged: {error}. Remove it; the stage is judged again") from error
