"""What the steps of a workflow leave in an artifact: a section each, absent until the step is done.

In ``reconvene.json`` they stand under ``measurements``. Fields that a newer release adds are passed over when they are
read, and kept when the manifest is written again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from reconvene.artifact.curve import PruningCurve
from reconvene.artifact.training_record import AnyTraining
from reconvene.costs.synops import Synops
from reconvene.data.preprocessing import CheckedNormalisation, CheckedPreprocessing
from reconvene.safety import Safety
from reconvene.tasks import task_named
from reconvene.utils.schema import AnySeed, Count, Name, NonNegative, Number, Plain, Text, opened

_Names = Annotated[tuple[Text, ...], Field(max_length=100_000)]
_FileName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^/\\\x00]+$")]


@opened
@dataclass(frozen=True)
class PruningSettings:
    """What was asked of a pruning, but for the model and the budget; what is not said was not asked."""

    criterion: Text | None = None
    """What scores weights; ``None``: whatever the evaluator needs."""
    evaluator: Text | None = "fan_in"
    rectify: Text = "reinit"
    round_to: Count | None = None
    """Widths become multiples of this; ``None``: 8, or with a budget on latency the step of the device."""
    seed: AnySeed = 0
    device: Text | None = None
    """For budgets on latency: a profile's file or name; ``None``: this machine."""
    size_of: _Names = ()
    """Formats whose files a budget on size is about; none: the artifact's own weights file."""
    memory_of: Text | None = None
    """Whose plan of activations a budget on peak memory is about; ``None``: PyTorch's own."""
    precision: Text | None = None
    """Of the network that these are about; ``None``: that of the device's profile, else fp32."""
    keep: _Names = ()
    """Layers of which nothing changes, by name or pattern."""
    trained: bool = False
    """Whether the weights are kept."""
    bits: tuple[Count, ...] | None = None
    """Bits of weights to choose from, zero for channels that leave; ``None``: no bits are decided."""
    activation_bits: tuple[Count, ...] = (8,)
    """Bits of what layers read to choose from."""
    chip: Text | None = None
    """Name or path of the cost file that budgets on cycles, energy and the like are about."""


@opened
@dataclass(frozen=True)
class PruningRecord(PruningSettings):
    """What was asked of a pruning, the ``budget`` as it was written, and what it did.

    ``spread`` is the activation spread of the small network over that of the dense one, by layer.
    """

    budget: dict[str, Plain] = field(default_factory=dict)
    spread: dict[str, NonNegative] = field(default_factory=dict)


_QUALITY = {"accuracy": "quality", "reference_accuracy": "reference_quality"}


def _quality_of_today(verification: dict[str, Plain]) -> dict[str, Plain]:
    """Releases that knew classification alone called a file's quality its accuracy."""
    return {_QUALITY.get(key, key): value for key, value in verification.items()}


@opened
@dataclass(frozen=True)
class ExportRecord:
    """One exported file, see ``reconvene.deploy.Exported``; ``variant`` is ``dense`` or ``pruned``.

    ``verification`` is as that class says it, in plain JSON types, None where the file was not verified.
    """

    file: _FileName
    bytes: Count
    variant: Text = "pruned"
    files: Annotated[tuple[_FileName, ...], Field(max_length=10_000)] = ()
    format: Text = ""
    precision: Text = "fp32"
    keep_fp32: _Names = ()
    learned_ranges: bool = False
    batch: Count | None = None
    dynamic_axes: _Names = ()
    opset: Count | None = None
    notes: _Names = ()
    verification: Annotated[dict[str, Plain], AfterValidator(_quality_of_today)] | None = None


@opened
@dataclass(frozen=True)
class AsCut:
    """The headline of a trained network and of what is left of it right after the cut, on the test images.

    ``warnings``: why a network is hardly trained, in words of the task, by variant.
    """

    task: Name
    dataset: Text
    scores: dict[Name, Number]
    warnings: dict[Name, Text] = field(default_factory=dict)

    def __str__(self) -> str:
        task = task_named(self.task)
        parts = [f"{task.show(score)} {name}" for name, score in self.scores.items()]
        lines = [f"{task.headline} on the test images: {', '.join(parts)}"]
        lines += [f"warning: {name}: {text}" for name, text in self.warnings.items()]
        if self.warnings:
            lines.append(
                "Are these the trained weights (--weights FILE), and were images prepared as here in training?"
            )
        return "\n".join(lines)


@opened
@dataclass(frozen=True)
class ReplacedOperations:
    """What was measured when cheaper forms took the place of operations, by the path of the operation.

    Attributes:
        largest: the largest input that a polynomial was fitted to.
        losses: the loss of the task that the form was estimated to cost.
    """

    largest: dict[Name, Number]
    losses: dict[Name, Number] = field(default_factory=dict)


@opened
@dataclass(frozen=True)
class Sections:
    """The sections of an artifact; what is None or empty was not done."""

    pruning: PruningRecord | None = None
    training: AnyTraining | None = None
    preprocessing: CheckedPreprocessing | None = None
    """What pictures go through, and what the classes are called."""
    normalisation: CheckedNormalisation | None = None
    """How images were normalised for weights that were trained elsewhere, where they came without data."""
    exports: Annotated[tuple[ExportRecord, ...], Field(max_length=10_000)] = ()
    refused: dict[_FileName, Text] = field(default_factory=dict)
    """Why a quantised file was not kept, by its name."""
    compiled: dict[Name, NonNegative] = field(default_factory=dict)
    """Costs of the file compiled for the chip of the budget, as the compiler says them: ``cycles``, ``sram``, ..."""
    assessment: dict[str, dict[str, Plain]] = field(default_factory=dict)
    """``Assessment.to_dict()`` by variant."""
    safety: dict[Name, Safety] = field(default_factory=dict)
    """By variant, and by the name of an exported file."""
    synops: dict[Name, Synops] = field(default_factory=dict)
    """Synaptic operations of a spiking network on test images, by variant; plain dataclasses, checked as this one."""
    ranges: dict[str, tuple[float, int]] | None = None
    """Scale and zero point by what puts a tensor out, as quantisation-aware training learned them."""
    weights_from: Text | None = None
    """Where the weights come from that were trained elsewhere: the name of a file, the address of a model whose code
    loads them, or ``OWN_LOOP``."""
    curve: PruningCurve | None = None
    """How the steps of an iterative pruning fared."""
    as_cut: AsCut | None = None
    """How good a trained network was right after it was cut."""
    pruned_in_steps: dict[str, Plain] | None = None
    """The request of a pruning in steps: a later call with the same one has nothing to do."""
    operations: ReplacedOperations | None = None
    """Of the stage that replaced operations, before it trains."""


def to_plain(section: Any) -> Any:
    """A section in plain JSON types."""
    if isinstance(section, tuple | list):
        return [to_plain(entry) for entry in section]
    return asdict(section) if is_dataclass(section) and not isinstance(section, type) else section
