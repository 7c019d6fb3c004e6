"""Options of the commands that prune: what is kept, and what the smaller network gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import UseAppendAction, arg

from reconvene.cli.command import UsageError, require_at_least

if TYPE_CHECKING:
    from reconvene.workflow import Pruning


@dataclass(kw_only=True)
class CriterionOptions:
    """Options that say what to keep."""

    heading: ClassVar[str] = "what to keep"

    criterion: Annotated[str | None, arg(metavar="NAME")] = None
    """What scores the weights: synflow, snip, grasp, magnitude, random; or the channels of a trained network: taylor,
    obd, group_l2, l1, l2, slimming, lamp, fpgm, hrank, chip; of a spiking one: activity, spike_rate. By default none
    with the evaluator fan_in, synflow with the others; for prune --trained: taylor with --data, else group_l2."""
    evaluator: Annotated[str | None, arg(metavar="NAME")] = None
    """How sensitivity is found: fan_in from the shapes alone, the default; density, reach, concentration, ablation,
    removed_loss from scores. By default removed_loss for criteria that score channels."""


@dataclass(kw_only=True)
class PruneOptions(CriterionOptions):
    """Options that say how to prune."""

    heading: ClassVar[str] = "how to prune"

    rectify: Annotated[str | None, arg(metavar="WAY")] = None
    """What touched layers get: reinit (fresh weights at the dense spread), rescale, or keep. Of trained networks:
    reconstruct, recalibrate or keep. By default reinit; for prune --trained: reconstruct with --data, else keep."""
    keep: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="NAME")]] = ()
    """A layer, or a pattern such as 'stem.*', of which nothing may change; as often as needed."""
    round_to: int | None = None
    """Widths become multiples of this where a group is wide enough: 8 (finer where that leaves much of the budget
    unused), or with --latency the step of the device."""
    bits: Annotated[str, arg(metavar="BITS,BITS")] = ""
    """Decide bits of weights as well: 0,2,4,8, zero for channels that leave. --size is then that of packed weights."""
    activation_bits: Annotated[str, arg(metavar="BITS,BITS")] = "8"
    """With --bits: bits that layer inputs can have, 2,4,8. Fewer than 8 where --cycles, --energy or --ops-bit gain by
    it."""
    overwrite: bool = False
    """Replace an artifact that was trained already."""

    def pruning(self, seed: int, *, criterion: str | None = None, rectify: str = "reinit", **target: Any) -> Pruning:
        """These options as the workflow takes them; ``criterion`` and ``rectify`` where none is asked for."""
        from reconvene.workflow import Pruning

        require_at_least(self, ("round_to",))
        from reconvene.evaluator.evaluators import usual_evaluator

        bits = read_bits(self.bits) if self.bits else None
        if self.activation_bits != "8" and bits is None:
            raise UsageError("--activation-bits are decided together with --bits. Try: --bits 0,2,4,8")
        criterion = self.criterion or (criterion if bits is None else None)
        return Pruning(
            criterion,
            self.evaluator or (usual_evaluator(criterion) if bits is None else None),
            self.rectify or rectify,
            self.round_to,
            seed,
            keep=self.keep,
            bits=bits,
            activation_bits=read_bits(self.activation_bits, "activation-bits"),
            **target,
        )


def read_bits(text: str, option: str = "bits") -> tuple[int, ...]:
    """Bits as they are written, ``0,2,4,8``. Raises UsageError for what is no list of numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--{option} {text} is not a list of numbers, such as 0,2,4,8")
    return tuple(map(int, parts))
