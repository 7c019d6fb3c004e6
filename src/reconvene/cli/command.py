"""What all commands share: their answer, their common options, and how options are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

if TYPE_CHECKING:
    from reconvene.models import ModelSource
    from reconvene.training import TrainConfig
    from reconvene.workflow import Int8, Lesson


EPOCHS = 5


class UsageError(Exception):
    """The options make no sense together: exit code 2."""


@dataclass(frozen=True)
class Answer:
    """What a command has to say: as text for a person, as plain JSON types for a program.

    ``trouble``: why part of it could not be done. It is said after the rest, and the exit code is 1.
    """

    text: str
    data: dict[str, Any]
    trouble: str = ""


def changed_options(options: Any, names: Iterable[str]) -> list[str]:
    """Those of the options with these names that are not at their default, as they are written."""
    defaults = {entry.name: entry.default for entry in fields(options)}
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) != defaults[name]]


def refuse_without(options: Any, names: Iterable[str], needed: str) -> None:
    """UsageError for an option that was given and says nothing without ``needed``."""
    if changed := changed_options(options, names):
        raise UsageError(f"{changed[0]} says nothing without {needed}. Add that, or leave {changed[0]} out")


def require_at_least(options: Any, names: Iterable[str], least: int = 1) -> None:
    """UsageError for a number that is too small; what was not given passes."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} {value}: it is {least} at least")


def names_in(text: str) -> tuple[str, ...]:
    """Names separated by commas, each once, in their order."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _read_shape(tokens: list[str]) -> tuple[int, ...]:
    sizes = tuple(int(word) for word in tokens[0].lower().split("x"))
    if min(sizes) < 1:
        raise ValueError("sizes are at least 1")
    return sizes


InputShape = Annotated[
    tuple[int, ...] | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="CxHxW",
        instance_from_str=_read_shape,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["x".join(str(size) for size in value) if value else "None"],
    ),
]
"""``3x32x32``: the shape of one example."""


@dataclass(kw_only=True)
class Command:
    """Options of every command. ``command_lines`` are examples for the help."""

    command_lines: ClassVar[tuple[str, ...]] = ()
    heading: ClassVar[str] = "in every command"

    json: bool = False
    """Print the answer as JSON on stdout; everything else goes to stderr."""
    debug: bool = False
    """Show where in the code an error came up."""

    def run(self) -> Answer:
        """Do it. Raises ReconveneError when it cannot be done, UsageError when the options make no sense together."""
        raise NotImplementedError


@dataclass(kw_only=True)
class Seeded:
    """The option of every command that draws random numbers."""

    heading: ClassVar[str] = "repeating it"

    seed: int = 0
    """Every random number comes from it: the same seed gives the same bytes."""


@dataclass(kw_only=True)
class Importing:
    """The option of every command that may meet a model of the user's own."""

    heading: ClassVar[str] = "which model"

    allow_import: bool = False
    """Let a model of your own (mymodel:make) be imported, which runs its code."""


@dataclass(kw_only=True)
class ModelOptions(Importing):
    """Options that say which model."""

    heading: ClassVar[str] = "which model"

    model_arg: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="NAME=VALUE")]] = ()
    """An argument of the model's constructor, such as num_classes=10."""
    input: InputShape = None
    """Shape of one example. By default the model's own."""

    def source(self, address: str, *, seed: int) -> ModelSource:
        """The model these options address."""
        from reconvene.models import parse_arguments, resolve_address

        arguments = parse_arguments(self.model_arg)
        return resolve_address(address, arguments, input_shape=self.input, seed=seed, allow_import=self.allow_import)


@dataclass(kw_only=True)
class LearningOptions:
    """Options that say by which recipe to train."""

    heading: ClassVar[str] = "how to train"

    epochs: Annotated[int | None, arg(metavar="N")] = None
    """Epochs of training. By default 5."""
    batch_size: Annotated[int | None, arg(metavar="N")] = None
    """Images a step. By default 128, fewer for small data."""
    lr: Annotated[float | Literal["auto"] | None, arg(metavar="RATE|auto")] = None
    """Highest learning rate. By default 0.1 (adamw: 0.001), for train --qat 0.01; where trained weights were kept, the
    end of that schedule, which begins lower. Lower it where a loss becomes nan.
    auto: found by a range test of up to 200 steps first."""
    schedule: Literal["one-cycle", "multi-step"] | None = None
    """How the learning rate moves: up and down once, or a tenth after half and after three quarters of the run. By
    default the recipe's own: one-cycle."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """sgd, the default: with Nesterov momentum, for networks with norms. adamw: for transformers and networks without
    norms; its rate is by default 0.001 with a decay of 0.05."""
    weight_decay: Annotated[float | None, arg(metavar="X")] = None
    """How strongly weights are pulled to zero; not norms and biases. By default 0.0005, and 0.05 with adamw."""
    augment: Literal["auto", "shift", "flip", "shift-flip", "none"] | None = None
    """Random changes of training images. auto, the default: what suits the data (digits are not
    flipped). none: for
    images in which every pixel has its place."""
    precision: Literal["auto", "bf16", "fp32"] | None = None
    """Arithmetic of the training step. auto: bfloat16 where the processor computes in it. By default the recipe's own:
    auto."""
    train_on: Annotated[str, arg(metavar="DEVICE")] = "auto"
    """cpu, cuda, cuda:1; auto: a CUDA device if there is one."""

    def rounds(self, default: int = EPOCHS) -> int:
        """How many epochs were asked for."""
        return default if self.epochs is None else self.epochs

    def config(self, seed: int, recipe: TrainConfig | None = None) -> TrainConfig:
        """The recipe, the default one unless another is given, with these options in it."""
        from dataclasses import replace

        from reconvene.training import TrainConfig
        from reconvene.training.config import ADAMW_DECAY, ADAMW_LR

        names = ("batch_size", "lr", "schedule", "optimizer", "weight_decay", "augment", "precision")
        overrides = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        overrides["device"] = self.train_on
        if self.optimizer == "adamw":
            overrides = {"lr": ADAMW_LR, "weight_decay": ADAMW_DECAY, **overrides}
        return replace(recipe or TrainConfig(), seed=seed, **overrides)


@dataclass(kw_only=True)
class TrainOptions(LearningOptions):
    """Options that say how to train."""

    distill: bool = False
    """Learn from a teacher, too: from DIR/dense, which is trained by the same recipe first where it is not yet."""
    teacher: Annotated[Path | None, arg(metavar="DIR")] = None
    """Artifact that teaches instead; implies --distill."""
    temperature: float = 4.0
    """What scores are divided by before teacher and student are compared."""
    distill_weight: Annotated[float, arg(metavar="SHARE")] = 0.5
    """Share of the teacher in the loss; the labels have the rest."""
    feature_weight: Annotated[float, arg(metavar="WEIGHT")] = 0.0
    """Also follow the teacher's features in the channels that were kept, with this weight."""
    no_resume: bool = False
    """Start an unfinished training over instead of going on from its checkpoint."""

    def lesson(self) -> Lesson | None:
        """How to learn from a teacher; None where that was not asked for."""
        from reconvene.workflow import Lesson

        if not self.distill and self.teacher is None:
            refuse_without(self, ("temperature", "distill_weight", "feature_weight"), "--distill or --teacher")
            return None
        return Lesson(self.teacher, self.temperature, self.distill_weight, self.feature_weight)


@dataclass(kw_only=True)
class Int8Options:
    """Options that say how int8 is made."""

    heading: ClassVar[str] = "how int8 is made"
    int8_options: ClassVar[tuple[str, ...]] = ("keep_fp32", "calibration_samples")
    """Options that say nothing where no int8 file is made."""

    keep_fp32: Annotated[str, arg(metavar="LAYER[,LAYER]")] = ""
    """Layers that stay in float32 in an int8 file; the name of a module stands for all layers in it."""
    calibration_samples: Annotated[int, arg(metavar="N")] = 256
    """Training images that ranges are measured on, at most 256."""

    def int8(self) -> Int8:
        """These options as the workflow takes them."""
        if not 1 <= self.calibration_samples <= 256:
            raise UsageError(f"--calibration-samples {self.calibration_samples}: it is from 1 to 256")
        from reconvene.workflow import Int8

        return Int8(keep_fp32=names_in(self.keep_fp32), samples=self.calibration_samples)


@dataclass(kw_only=True)
class LimitOptions(Int8Options):
    """Options that say what an int8 file must keep."""

    heading: ClassVar[str] = "what an int8 file must keep"
    int8_options: ClassVar[tuple[str, ...]] = (
        *Int8Options.int8_options,
        "min_agreement",
        "min_sqnr",
        "max_accuracy_drop",
    )

    min_agreement: Annotated[float, arg(metavar="SHARE")] = 0.95
    """Least share of test images on which int8 and float32 see the same class."""
    min_sqnr: Annotated[float, arg(metavar="DB")] = 10.0
    """Least signal to quantisation noise of the outputs, in dB."""
    max_accuracy_drop: Annotated[float, arg(metavar="SHARE")] = 0.02
    """Most accuracy that int8 may lose: 0.02 is two points."""

    def int8(self) -> Int8:
        """These options as the workflow takes them."""
        if not (0 <= self.min_agreement <= 1 and 0 <= self.max_accuracy_drop <= 1):
            raise UsageError("--min-agreement and --max-accuracy-drop are shares, from 0 to 1")
        settings = super().int8()
        from dataclasses import replace

        from reconvene.deploy import Limits

        return replace(settings, limits=Limits(self.min_agreement, self.min_sqnr, self.max_accuracy_drop))


ModelAddress = Positional[Annotated[str, arg(metavar="MODEL")]]
"""A model address: see ``reconvene.models.address``."""

ArtifactFolder = Positional[Annotated[Path, arg(metavar="DIR")]]
"""The folder of an artifact."""
