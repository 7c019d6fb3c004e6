"""Nuclei told apart by a trained U-Net that is cut to 15 % and, without fine-tuning, to 30 %: arms at equal steps.

Every line of ``results/nuclei.jsonl`` is one arm of one seed: a U-Net of base 16 at 128x128 pixels, instances of the
nuclei data, panoptic quality, AJI and Dice of the test images right after the cut, after the repair and after tuning.
A run that is stopped at any moment goes on from its checkpoints: ``--seconds 220`` does a slice of the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "nuclei.jsonl", HERE.parent / "docs" / "trained.md"
BEGIN, END = "<!-- generated: nuclei -->\n", "<!-- end: nuclei -->"
SHAPE = (3, 128, 128)
DENSE_EPOCHS, TUNED_EPOCHS = 12, 4
METRICS = ("pq", "aji", "dice")
# Measured on its own, since its noise would decide a mean.
RECIPE: dict[str, Any] = {"batch_size": 8, "precision": "fp32", "lr": 0.05, "device": "cpu", "checkpoint_seconds": 15.0}


@dataclass(frozen=True)
class Arm:
    """One way to get a network of this share of the parameters; ``scratch``: the same widths, drawn anew."""

    name: str
    share: float
    criterion: str
    tuned: bool = True
    scratch: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.share:.0%}"


ARMS = (
    Arm("taylor", 0.15, "taylor"),
    Arm("group_l2", 0.15, "group_l2"),
    Arm("random channels", 0.15, "random"),
    Arm("from scratch", 0.15, "taylor", scratch=True),
    Arm("taylor, one shot", 0.3, "taylor", tuned=False),
    Arm("random channels, one shot", 0.3, "random", tuned=False),
)
