"""Recipes: pruning, training, distillation, bits, int8 and export in any order, each stage an artifact of its own."""

from reconvene.workflow.compression.compressed import Compressed
from reconvene.workflow.compression.recipe import Recipe, read_recipe_file
from reconvene.workflow.compression.recipe_run import compress
from reconvene.workflow.compression.registry import STAGES
from reconvene.workflow.compression.stage import RecipeStage, StageWork

__all__ = ["STAGES", "Compressed", "Recipe", "RecipeStage", "StageWork", "compress", "read_recipe_file"]
