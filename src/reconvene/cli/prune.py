"""``reconvene prune MODEL -o DIR``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

from reconvene.cli.budget_options import BudgetOptions
from reconvene.cli.command import Answer, Command, ModelAddress, ModelOptions, Seeded, UsageError, refuse_without
from reconvene.cli.data_options import TrainingDataOptions
from reconvene.cli.prune_options import PruneOptions
from reconvene.cli.step_options import StepOptions

if TYPE_CHECKING:
    from reconvene.artifact import Artifact
    from reconvene.costs import Budget
    from reconvene.data import Dataset, Normalisation
    from reconvene.models import ModelSource
    from reconvene.surgery import Plan
    from reconvene.workflow import Pruning


@dataclass(kw_only=True)
class PruneCommand(BudgetOptions, PruneOptions, StepOptions, TrainingDataOptions, ModelOptions, Seeded, Command):
    """Make a model smaller so that it keeps every budget, and save it as an artifact.

    An untrained one, whose touched layers are drawn anew; or with --trained a network whose weights are kept, in steps
    with --steps.
    """

    command_lines: ClassVar[tuple[str, ...]] = (
        "reconvene prune torchvision:resnet50 --macs 4x -o out/",
        "reconvene prune trained/ --trained --data digits --macs 2x -o smaller/",
    )
    heading: ClassVar[str] = "which weights"

    model: ModelAddress
    """vgg16_bn (ours), torchvision:NAME, timm:NAME, transformers:CONFIG-OR-ID, mymodel:make, or mymodel.py:make; with
    --trained also the folder of an artifact that was trained."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """Folder of the artifact."""
    trained: bool = False
    """Keep the weights: choose channels by what they do, and repair what is left from --data, where they are given."""
    weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Weights of the model: a .safetensors file, or a checkpoint of torch.save. Needs --trained."""
    pretrained: bool = False
    """With the weights that torchvision or timm publish, where they are on this machine. Needs --trained."""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """digits (handwritten, no download), a hub id such as owner/name, or a folder of images or parquet. By default
    digits for criteria of untrained networks that need data, and none with --trained."""

    def run(self) -> Answer:
        """Plan, surgery, rectification, artifact."""
        budget = self.budget()
        self._check_weights()
        in_steps = self.in_steps
        from reconvene import artifact

        base, source = self._origin()
        self._take_published_normalisation()
        dataset = cache(partial(self.dataset, source.input_shape, base))
        prune = self._pruned_in_steps if in_steps else self._pruned
        plan = prune(budget, source, base, dataset)
        stored = artifact.Artifact.open(self.output)
        text = self._tables(plan, f"{source.address} within {budget}")
        text += [] if stored.curve is None else ["", str(stored.curve)]
        scores: dict[str, float] = {}
        if self.trained and self.data is not None and not in_steps:
            from reconvene.workflow.evaluate import judge_cut

            as_cut = judge_cut(self.output, dataset(), allow_import=self.allow_import)
            scores = as_cut.scores
            text.append(str(as_cut))
        return Answer("\n".join(text), self._data(plan, source, stored, scores))

    def _origin(self) -> tuple[Path | None, ModelSource]:
        """The artifact whose trained network is pruned, if it is one, and how the dense network is built."""
        from reconvene import artifact

        if not self.trained or not (Path(self.model) / artifact.MANIFEST).is_file():
            return None, self.source(self.model, seed=self.seed)
        stored = artifact.Artifact.open(self.model)
        self.refuse_other_normalisation(stored)
        return Path(self.model), stored.source

    def _tables(self, plan: Plan, title: str) -> list[str]:
        """The groups and the costs of the plan."""
        from reconvene.costs import text_of
        from reconvene.utils.tables import Cell, smaller, text_table

        widths: list[list[Cell]] = [[row.name, row.dense, row.width, row.loss, row.why] for row in plan.rows]
        dense, pruned = plan.costs["dense"], plan.costs["pruned"]
        costs: list[list[Cell]] = [
            [name, text_of(name, dense[name]), text_of(name, pruned[name]), smaller(dense[name], pruned[name])]
            for name in pruned
        ]
        costs.append([f"training FLOPs, {plan.training_unit}", *plan.training_text])
        protected = [f"kept whole, as asked: {', '.join(self.keep)}"] if self.keep else []
        decided = [] if plan.bits is None else [plan.bits.summary]
        foot = [*decided, *plan.remarks, *protected, f"artifact: {self.output}"]
        return [
            text_table(["group", "dense", "width", "loss", "why"], widths, title=title),
            "",
            text_table(["cost", "dense", "pruned", "smaller"], costs, right=(1, 2, 3), foot=foot),
        ]

    def _data(self, plan: Plan, source: ModelSource, stored: Artifact, scores: Mapping[str, float]) -> dict[str, Any]:
        """The answer for a program."""
        assert stored.pruning is not None, "pruned above"
        return {
            "artifact": str(self.output),
            "model": source.to_dict(),
            "groups": plan.summary,
            "pinned": plan.pinned,
            "costs": plan.costs,
            "limits": plan.limits,
            "training_flops": {"of": plan.training_unit, "examples": plan.examples, **plan.training_flops},
            **asdict(stored.pruning),
            "bits": None if plan.bits is None else plan.bits.to_dict(),
            "timings": plan.timings,
            "curve": None if stored.curve is None else asdict(stored.curve),
            "scores": scores,
        }

    def _pruned(self, budget: Budget, source: ModelSource, base: Path | None, dataset: Callable[[], Dataset]) -> Plan:
        """One cut."""
        from reconvene.tasks import task_named
        from reconvene.workflow import prune_artifact
        from reconvene.workflow.inputs import recorded_task

        with_data = not self.trained or self.data is not None
        return prune_artifact(
            source,
            self.output,
            budget=budget,
            pruning=self._pruning(with_data=with_data),
            data=dataset if with_data else None,
            task=task_named(self.task or recorded_task(base)),
            base=base,
            weights=self._weights_file(),
            normalisation=self._normalisation(source),
            examples=None if self.data is None else self.examples(base),
            overwrite=self.overwrite,
            allow_import=self.allow_import,
        )

    def _pruned_in_steps(
        self, budget: Budget, source: ModelSource, base: Path | None, dataset: Callable[[], Dataset]
    ) -> Plan:
        """Several cuts, or one, and tuning after each."""
        from reconvene.workflow import prune_in_steps

        return prune_in_steps(
            source,
            self.output,
            budget=budget,
            tuned=self.tuned(self.seed, base),
            dataset=dataset(),
            pruning=self._pruning(with_data=True),
            base=base,
            weights=self._weights_file(),
            normalisation=self._normalisation(source),
            overwrite=self.overwrite,
            allow_import=self.allow_import,
        )

    def _pruning(self, *, with_data: bool) -> Pruning:
        from reconvene.planning.options import default_criterion, default_rectification

        return self.pruning(
            self.seed,
            criterion=default_criterion(trained=self.trained, with_data=with_data),
            rectify=default_rectification(trained=self.trained, with_data=with_data),
            trained=self.trained,
            **self.target_options,
        )

    def _take_published_normalisation(self) -> None:
        """Published weights read images as they were trained on, not as these data would have them."""
        from reconvene.models.pretrained import published_normalisation

        _ = self.normalisation  # a list that is none is said now
        published = published_normalisation(self.model) if self.pretrained else None
        if published is not None and self.mean is None and self.std is None:
            self.mean, self.std = (",".join(map(str, values)) for values in published)

    def _normalisation(self, source: ModelSource) -> Normalisation | None:
        """What ``--mean`` and ``--std`` say of the weights; with data alone, it is taken from their images."""
        from reconvene.data import Normalisation

        mean, std = self.normalisation
        if self.trained and self.data is None and (mean is None) != (std is None):
            raise UsageError("--mean and --std belong together where no --data has the other one. Give both")
        if mean is None or std is None or not self.trained or source.input_shape is None:
            return None
        return Normalisation.of(mean, std, source.input_shape[0])

    def _weights_file(self) -> Path | None:
        from reconvene.models.pretrained import pretrained_file

        return pretrained_file(self.model) if self.pretrained else self.weights

    def _check_weights(self) -> None:
        from reconvene.artifact import MANIFEST

        if self.trained and self.data is None:
            if self.in_steps:
                raise UsageError(f"tuning needs the images that {self.model} was trained on. Name them with --data")
            refuse_without(self, ("limit", "task", "validation"), "--data")
        if not self.trained and self.in_steps:
            raise UsageError("--steps and --epochs tune a trained network after a cut. Give --trained as well")

        is_artifact = (Path(self.model) / MANIFEST).is_file()
        if self.pretrained and self.weights is not None:
            raise UsageError("--pretrained and --weights name different weights. Give one of them")
        weights_option = "--pretrained" if self.pretrained else None if self.weights is None else "--weights"
        if weights_option is not None and not self.trained:
            raise UsageError(
                f"{weights_option}: weights are kept with --trained only; without it touched layers are drawn anew"
            )
        if is_artifact and weights_option is not None:
            raise UsageError(f"{self.model} is an artifact and has weights. Leave {weights_option} out")
        if is_artifact and not self.trained:
            raise UsageError(f"{self.model} is an artifact. --trained prunes the network in it and keeps its weights")
