"""Classification of images: nothing outside this package knows about classes of images."""

from reconvene.tasks.classification.assessment import ClassAssessment, Predictions, calibration_error
from reconvene.tasks.classification.evaluation import ClassEvaluation, warning
from reconvene.tasks.classification.task import Classification

__all__ = ["ClassAssessment", "ClassEvaluation", "Classification", "Predictions", "calibration_error", "warning"]
