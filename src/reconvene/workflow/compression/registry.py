"""The stages there are, by the name that a recipe calls them."""

from __future__ import annotations

from reconvene.workflow.compression.deploying_stages import ExportStage, QuantiseStage
from reconvene.workflow.compression.pruning_stages import BitsStage, PruneStage, SearchStage
from reconvene.workflow.compression.replace_stage import ReplaceStage
from reconvene.workflow.compression.stage import RecipeStage
from reconvene.workflow.compression.training_stages import DistilStage, TrainStage

_KINDS: tuple[type[RecipeStage], ...] = (
    TrainStage,
    DistilStage,
    PruneStage,
    ReplaceStage,
    BitsStage,
    SearchStage,
    QuantiseStage,
    ExportStage,
)
STAGES: dict[str, type[RecipeStage]] = {stage.name: stage for stage in _KINDS}
