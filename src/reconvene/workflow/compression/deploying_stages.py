"""Stages that make files: int8, and the formats of runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from reconvene.deploy import FORMATS, Limits
from reconvene.deploy.planned import LACKING, NARROW_INPUTS, PACKED
from reconvene.deploy.runtimes.registry import format_named
from reconvene.errors import RecipeError
from reconvene.utils.settings import LISTED, one_of
from reconvene.workflow.compression.stage import RecipeStage, StageWork, copy_before, follows_training
from reconvene.workflow.deploy import Int8, export_artifact
from reconvene.workflow.qat import QAT_CONFIG, train_quantised


@dataclass(frozen=True, kw_only=True)
class QuantiseStage(RecipeStage):
    """From here on files are int8. ``epochs``: of quantisation-aware training; 0: ranges are measured on data alone.

    ``lr`` is the highest rate of that training; auto: found by a range test first.
    """

    name: ClassVar[str] = "quantise"
    precision: ClassVar[str] = "int8"
    epochs: int = 0
    lr: float | Literal["auto"] = QAT_CONFIG.lr

    def check(self, path: Callable[[str], str]) -> None:
        """Check epochs and learning rate."""
        if self.epochs < 0:
            raise RecipeError(f"epochs {self.epochs} must be at least 0")
        if not self.epochs and self.lr != QAT_CONFIG.lr:
            raise RecipeError("lr is the rate of quantisation-aware training, which needs epochs. Say epochs: 2")
        replace(QAT_CONFIG, lr=self.lr).check()

    def refused_after(self, earlier: Sequence[RecipeStage], *, trained: bool) -> str:
        """Training with roundings goes on from a training of the same network."""
        if any(stage.precision == "plan" for stage in earlier):
            return "bits were decided before it, and files have those. Leave quantise out"
        if self.epochs and not follows_training(earlier, trained=trained):
            return (
                "quantisation-aware training goes on from weights that were trained. Put a train or distil stage right "
                "before it, or leave epochs out"
            )
        return ""

    @property
    def trains(self) -> bool:
        """True if it has epochs: then it is quantisation-aware training."""
        return self.epochs > 0

    def carry_out(self, work: StageWork) -> None:
        """Copy the network before, and train the copy where epochs are asked for."""
        if not copy_before(work) or not self.epochs:
            return
        train_quantised(
            work.folder,
            work.dataset,
            epochs=self.epochs,
            config=replace(QAT_CONFIG, seed=work.seed, lr=self.lr),
            again=True,
            allow_import=work.allow_import,
        )


@dataclass(frozen=True, kw_only=True)
class ExportStage(RecipeStage):
    """Write and verify files for runtimes, in the precision that the stages before decided.

    ``agreement``, ``sqnr`` and ``accuracy_drop`` are what files in less than float32 must keep, see
    ``reconvene.deploy.Limits``; ``keep_fp32`` are layers that stay in float32 in them.
    """

    name: ClassVar[str] = "export"
    changes: ClassVar[bool] = False
    formats: Annotated[tuple[Annotated[str, one_of(FORMATS)], ...], LISTED] = ("onnx",)
    keep_fp32: Annotated[tuple[str, ...], LISTED] = ()
    agreement: float = Limits.agreement
    sqnr: float = Limits.sqnr
    accuracy_drop: float = Limits.accuracy_drop

    def check(self, path: Callable[[str], str]) -> None:
        """What files must keep, and that there are any."""
        Limits(self.agreement, self.sqnr, self.accuracy_drop)
        if not self.formats:
            raise RecipeError("formats: names no format. Take formats: [onnx], or leave the export out")

    def refused_after(self, earlier: Sequence[RecipeStage], *, trained: bool) -> str:
        """Formats hold a plan of bits, and activations of few bits, or they do not."""
        if self.keep_fp32 and all(stage.precision is None for stage in earlier):
            return "keep_fp32 names layers of files in less than float32, and these are float32. Quantise before it"
        limits, usual = (self.agreement, self.sqnr, self.accuracy_drop), Limits()
        if limits != (usual.agreement, usual.sqnr, usual.accuracy_drop) and all(
            stage.precision is None for stage in earlier
        ):
            return (
                "agreement, sqnr and accuracy_drop are for files in less than float32, and these are float32. Leave "
                "them out, or quantise before it"
            )
        deciding = next((stage for stage in reversed(earlier) if stage.precision is not None), None)
        if deciding is None or deciding.precision != "plan":
            return ""
        few = set(deciding.activation_bits) - {8}
        needed = {PACKED, *([NARROW_INPUTS] if few else [])}
        for name in self.formats:
            if missing := needed - format_named(name).takes:
                return f"{name} files hold no {LACKING[missing.pop()]}. Take formats: [onnx]"
        return ""

    def carry_out(self, work: StageWork) -> None:
        """Export a copy of the network before."""
        copy_before(work)
        limits = Limits(self.agreement, self.sqnr, self.accuracy_drop)
        int8 = None if work.precision == "fp32" else Int8(limits, self.keep_fp32, plan_bits=work.precision == "plan")
        export_artifact(
            work.folder,
            formats=self.formats,
            int8=int8,
            dataset=work.dataset,
            seed=work.seed,
            allow_import=work.allow_import,
        )
