"""``reconvene prune MODEL -o DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from reconvene.cli.command import Answer, BudgetOptions, Command, DataOptions, ModelAddress, ModelOptions, PruneOptions


@dataclass(kw_only=True)
class Prune(BudgetOptions, PruneOptions, DataOptions, ModelOptions, Command):
    """Make an untrained model smaller so that it keeps every budget, and save it as an artifact."""

    model: ModelAddress
    """vgg16_bn (ours), torchvision:NAME, timm:NAME, transformers:CONFIG-OR-ID, or package.module:callable."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """Folder of the artifact."""

    def run(self) -> Answer:
        """Plan, surgery, rectification, artifact."""
        budget = self.budget()
        from reconvene import artifact
        from reconvene.cli.progress import say, steps
        from reconvene.costs import text_of
        from reconvene.utils.tables import Cell, smaller, table
        from reconvene.workflow import prune

        source = self.source(self.model, seed=self.seed)
        examples = self.examples()
        plan = prune(
            source,
            self.output,
            budget=budget,
            pruning=self.pruning(self.seed, **self.target_options),
            data=lambda: self.dataset(source.input_shape),
            examples=examples,
            overwrite=self.overwrite,
            allow_import=self.allow_import,
            steps=steps,
            say=say,
        )
        widths: list[list[Cell]] = [[row.name, row.dense, row.width, row.loss, row.why] for row in plan.rows]
        dense, pruned = plan.costs["dense"], plan.costs["pruned"]
        costs: list[list[Cell]] = [
            [name, text_of(name, dense[name]), text_of(name, pruned[name]), smaller(dense[name], pruned[name])]
            for name in dense
        ]
        costs.append([f"training FLOPs, {plan.training_unit}", *plan.training_told])
        pruning = artifact.manifest(self.output).measurements["pruning"]
        text = [
            table(["group", "dense", "width", "loss", "why"], widths, title=f"{source.address} within {budget}"),
            "",
            table(
                ["cost", "dense", "pruned", "smaller"],
                costs,
                right=(1, 2, 3),
                foot=[*plan.remarks, f"artifact: {self.output}"],
            ),
        ]
        data = {
            "artifact": str(self.output),
            "model": source.to_dict(),
            "groups": plan.summary,
            "pinned": plan.pinned,
            "costs": plan.costs,
            "limits": plan.limits,
            "training_flops": {"of": plan.training_unit, "examples": plan.examples, **plan.training_flops},
            **pruning,
            "timings": plan.timings,
        }
        return Answer("\n".join(text), data)
