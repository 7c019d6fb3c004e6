"""``reconvene fit DEVICE``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from reconvene.cli.budget_options import LimitsOptions
from reconvene.cli.command import Answer, Command, ModelOptions, Seeded, UsageError, names_in, require_at_least
from reconvene.cli.data_options import DataOptions
from reconvene.cli.prune_options import CriterionOptions
from reconvene.utils.progress import note


@dataclass(kw_only=True)
class FitCommand(LimitsOptions, DataOptions, CriterionOptions, ModelOptions, Seeded, Command):
    """Rank architectures by what they are predicted to lose when each is cut to a device's budget."""

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene fit pi4 --models resnet20,mobilenetv2 --latency 20ms",)
    heading: ClassVar[str] = "which device"

    device: Positional[Annotated[str, arg(metavar="DEVICE")]]
    """Profile of the device: a file, or a name; here: this machine, measured as needed."""
    models: Annotated[str, arg(metavar="MODEL[,MODEL]")]
    """Architectures, separated by commas."""
    round_to: int | None = None
    """Widths become multiples of this where a group is wide enough. By default the step of the device."""

    def run(self) -> Answer:
        """Cut each to the budget, without saving anything."""
        names = names_in(self.models)
        if not names:
            raise UsageError("--models names no architecture")
        require_at_least(self, ("round_to",))
        self.check_data_options()
        budget = self.budget()
        from reconvene.devices import HERE, find
        from reconvene.errors import FleetError
        from reconvene.fleet import rank
        from reconvene.planning.target import Target
        from reconvene.workflow.prune import Samples

        if self.device != HERE:
            find(self.device)  # said before any model is built
        sources = [self.source(name, seed=self.seed) for name in names]
        ranking = rank(
            sources,
            budget,
            target=Target(**self.target_options),
            round_to=self.round_to,
            criterion=self.criterion,
            evaluator=self.evaluator,
            data=lambda source: Samples(lambda: self.dataset(source.input_shape), seed=self.seed),
            task=self.task,
            examples=self.examples(),
            seed=self.seed,
            allow_import=self.allow_import,
        )
        if all(candidate.trouble for candidate in ranking.candidates):
            note(str(ranking))
            raise FleetError(f"none of {', '.join(names)} can be cut to {budget} for {self.device}")
        return Answer(str(ranking), ranking.to_dict())
