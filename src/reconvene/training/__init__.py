"""Training with a plain, good recipe: killed at any moment, it goes on to the same bytes."""

from reconvene.tasks import Evaluation
from reconvene.training.config import TrainConfig
from reconvene.training.distillation import Distillation
from reconvene.training.evaluate import evaluate_split
from reconvene.training.log import read_log
from reconvene.training.train import TrainResult, train_model

__all__ = ["Distillation", "Evaluation", "TrainConfig", "TrainResult", "evaluate_split", "read_log", "train_model"]
