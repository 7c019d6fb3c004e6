"""The whole way on artifacts: prune, train, export, bench, report, and all of it in one call.

Each step reads what it needs from the artifact's folder and leaves its result there, so steps can be run one by one, on
different days, and a way that was interrupted goes on where it stopped.
"""

from reconvene.pipeline.bundle import bundle
from reconvene.pipeline.deploy import Form, Int8, bench, export
from reconvene.pipeline.evaluate import evaluate
from reconvene.pipeline.prune import Pruning, prune
from reconvene.pipeline.qat import train_quantised
from reconvene.pipeline.report import report
from reconvene.pipeline.run import Outcome, run
from reconvene.pipeline.steps import Steps, quiet
from reconvene.pipeline.train import Lesson, Training, train, training_warnings

__all__ = [
    "Form",
    "Int8",
    "Lesson",
    "Outcome",
    "Pruning",
    "Steps",
    "Training",
    "bench",
    "bundle",
    "evaluate",
    "export",
    "prune",
    "quiet",
    "report",
    "run",
    "train",
    "train_quantised",
    "training_warnings",
]
