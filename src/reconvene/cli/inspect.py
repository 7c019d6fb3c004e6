"""``reconvene inspect MODEL``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from tyro.conf import arg

from reconvene.cli.command import Answer, Command, ModelAddress, ModelOptions, Seeded, UsageError, changed_options
from reconvene.cli.data_options import DataOptions
from reconvene.cli.prune_options import CriterionOptions
from reconvene.utils.progress import note, stage


@dataclass(kw_only=True)
class InspectCommand(DataOptions, CriterionOptions, ModelOptions, Seeded, Command):
    """Show the groups of a model: widths, how sensitive each is, what is pinned and why."""

    command_lines: ClassVar[tuple[str, ...]] = (
        "reconvene inspect torchvision:resnet18",
        "reconvene inspect mymodel.py:make --allow-import --input 3x64x64",
    )
    heading: ClassVar[str] = "what is shown"

    model: ModelAddress
    """vgg16_bn (ours), torchvision:NAME, timm:NAME, transformers:CONFIG-OR-ID, mymodel:make, or mymodel.py:make."""
    density: Annotated[float, arg(metavar="SHARE")] = 1 / 16
    """Share of the weights at which sensitivity is shown."""
    encrypted: bool = False
    """Show instead the costs on encrypted images (CKKS), and the layers that cannot run on them."""

    def _refuse_beside_encrypted(self) -> None:
        """Raise UsageError for an option about sensitivity, which is not shown."""
        if given := changed_options(self, ("criterion", "evaluator", "density", *self.options_of_data)):
            raise UsageError(f"--encrypted shows no sensitivity: leave out {', '.join(given)}")

    def run(self) -> Answer:
        """Groups and sensitivity, without changing or saving anything."""
        from reconvene import api
        from reconvene.costs.synops import count_synops
        from reconvene.evaluator.evaluators import evaluator_named, usual_evaluator
        from reconvene.models import example_inputs
        from reconvene.structure.neurons import neurons
        from reconvene.workflow.prune import Samples

        if self.encrypted:
            self._refuse_beside_encrypted()
        self.check_data_options()
        source = self.source(self.model, seed=self.seed)
        assert source.input_shape is not None, "resolve_address() fills it in"
        with stage(f"building {source.address}"):
            model = source.build(allow_import=self.allow_import)
        inputs = example_inputs(source.input_shape, seed=self.seed)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        head = f"{source.address}, input {'x'.join(map(str, source.input_shape))}, {parameters:,} parameters"
        answer: dict[str, Any] = {"model": source.to_dict(), "parameters": parameters}
        if self.encrypted:
            from reconvene.costs.encrypted import readiness
            from reconvene.structure import analyse

            ready = readiness(analyse(model, inputs, trial=False))
            return Answer(f"{head}\n{ready}", {**answer, "encrypted": ready.to_dict()})
        data = Samples(lambda: self.dataset(source.input_shape), seed=self.seed)
        evaluator = self.evaluator or usual_evaluator(self.criterion)
        by = f"{evaluator} of {self.criterion}" if self.criterion else evaluator
        if self.criterion and not evaluator_named(evaluator).reads:
            note(
                f"criterion {self.criterion!r} changes nothing in the table: {evaluator} reads no scores. "
                "Try --evaluator density"
            )
        with stage(f"finding groups and their sensitivity by {by}"):
            sensitivities = api.sensitivity(
                model,
                inputs,
                self.criterion,
                evaluator=evaluator,
                data=data,
                loss=data.loss_for(self.task, trained=False),
                seed=self.seed,
                density=self.density,
            )
        text, answer["sensitivity"] = f"{head}\n{sensitivities}", sensitivities.to_dict()
        if neurons(model):
            with stage("counting synaptic operations"):
                counted = count_synops(model, data, inputs, seed=self.seed)
            text, answer["synops"] = f"{text}\n\n{counted}", counted.to_dict()
        self.note_unread(data)
        return Answer(text, answer)
