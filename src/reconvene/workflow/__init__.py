"""The whole way on artifacts: prune, train, export, bench, report, and all of it in one call.

Each step reads what it needs from the artifact's folder and leaves its result there, so steps can be run one by one, on
different days, and a way that was interrupted goes on where it stopped.
"""

from reconvene.artifact import Training
from reconvene.workflow.bundle import bundle
from reconvene.workflow.deploy import Form, Int8, bench, export_artifact
from reconvene.workflow.evaluate import evaluate
from reconvene.workflow.grow import train_growing
from reconvene.workflow.iterative import Tuned, prune_in_steps
from reconvene.workflow.prune import Pruning, prune_artifact
from reconvene.workflow.qat import train_quantised
from reconvene.workflow.recipes import rewound, usual_recipe
from reconvene.workflow.report import report
from reconvene.workflow.run import Outcome, run
from reconvene.workflow.safety import ArtifactSafety, judge_safety
from reconvene.workflow.search import Searching, search_artifact
from reconvene.workflow.train import Lesson, train, training_warnings

__all__ = [
    "ArtifactSafety",
    "Form",
    "Int8",
    "Lesson",
    "Outcome",
    "Pruning",
    "Searching",
    "Training",
    "Tuned",
    "bench",
    "bundle",
    "evaluate",
    "export_artifact",
    "judge_safety",
    "prune_artifact",
    "prune_in_steps",
    "report",
    "rewound",
    "run",
    "search_artifact",
    "train",
    "train_growing",
    "train_quantised",
    "training_warnings",
    "usual_recipe",
]
