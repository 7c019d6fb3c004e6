"""Training with a plain, good recipe: killed at any moment, it goes on to the same bytes."""

from reconvene.tasks import Evaluation
from reconvene.training.config import TrainConfig
from reconvene.training.distillation import Distillation
from reconvene.training.evaluate import evaluate
from reconvene.training.log import read_log
from reconvene.training.train import TrainResult, train

__all__ = ["Distillation", "Evaluation", "TrainConfig", "TrainResult", "evaluate", "read_log", "train"]
