"""``reconvene evaluate DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from reconvene.cli.command import Answer, ArtifactFolder, Command, Importing, Seeded
from reconvene.cli.data_options import DataOptions


@dataclass(kw_only=True)
class EvaluateCommand(DataOptions, Importing, Seeded, Command):
    """The task's metrics and agreement with the dense network; of classifiers calibration and the worst class too."""

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene evaluate out/ --data digits --corruptions",)
    heading: ClassVar[str] = "what is looked at"

    directory: ArtifactFolder
    """Folder of a trained artifact."""
    corruptions: bool = False
    """Also noise, blur, contrast and JPEG at three strengths: twelve more rounds over the test images."""
    safety: bool = False
    """Also what networks and exported files tell of training images (membership inference), how they answer attacked
    images (FGSM, PGD-10), and whether a small patch turns all answers into one class. --data is that of training."""

    def run(self) -> Answer:
        """Evaluate, keep, and renew the report where there is one."""
        from reconvene import artifact
        from reconvene.training.assess import compare_text
        from reconvene.workflow import evaluate, judge_safety, report
        from reconvene.workflow.prune import REPORT

        stored = artifact.Artifact.open(self.directory)
        self.refuse_other_normalisation(stored)
        dataset = self.dataset(stored.source.input_shape, self.directory)
        assessments = evaluate(
            self.directory,
            dataset,
            corruptions=self.corruptions,
            seed=self.seed,
            allow_import=self.allow_import,
        )
        text = f"{compare_text(assessments)}\non {dataset}"
        variants = {name: assessment.to_dict() for name, assessment in assessments.items()}
        counts = artifact.Artifact.open(self.directory).synops
        text = "\n\n".join([text, *(f"{name}: {count}" for name, count in counts.items())])
        data: dict[str, Any] = {"artifact": str(self.directory), "dataset": str(dataset), "variants": variants}
        data["synops"] = {name: count.to_dict() for name, count in counts.items()}
        if self.safety:
            judged = judge_safety(self.directory, dataset, seed=self.seed, allow_import=self.allow_import)
            text, data = f"{text}\n\n{judged}", {**data, "safety": judged.to_dict()}
        if (self.directory / REPORT).exists():
            report(self.directory)
        return Answer(text, data)
