"""Stages that decide what leaves: channels, and bits of weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Self

from torch import nn

from reconvene import artifact
from reconvene.costs import COSTS, Budget, cost_named
from reconvene.costs.cost_file import ChipCost, cost_file
from reconvene.criteria import CHANNEL_CRITERIA, CRITERIA
from reconvene.deploy.runtimes.registry import FORMATS
from reconvene.devices import HERE
from reconvene.errors import RecipeError, UnknownNameError
from reconvene.evaluator import EVALUATORS
from reconvene.evaluator.evaluators import evaluator_named, usual_evaluator
from reconvene.planning.arguments import budget_argument
from reconvene.planning.bits.planner import check_activation_bits, check_bits
from reconvene.planning.limits import matching
from reconvene.planning.options import default_criterion, default_rectification
from reconvene.planning.search.search import divided
from reconvene.rectifier import RECTIFICATIONS
from reconvene.utils.invalid_values import Place
from reconvene.utils.settings import LISTED, Positive, Settings, one_of
from reconvene.workflow.compression.graph_room import without_graph
from reconvene.workflow.compression.room import with_room
from reconvene.workflow.compression.stage import RecipeStage, StageWork, check_device, digests_of, follows_training
from reconvene.workflow.origin import DENSE
from reconvene.workflow.prune import Pruning, prune_artifact
from reconvene.workflow.search import Searching, search_artifact

_OF_PLAN, _OF_SEARCH = 0.998, 0.98
"""Of a file's limit: what files with the bits of a plan take before training, and before a search decides others."""


@dataclass(frozen=True, kw_only=True)
class LimitedStage(RecipeStage):
    """A stage that keeps limits: its own, ``limits`` by cost, or where it has none the budget of the recipe."""

    limits: dict[str, str | int | float] = field(default_factory=dict)
    keep: Annotated[tuple[str, ...], LISTED] = ()
    round_to: Positive | None = None
    target: str | None = None

    @classmethod
    def read(cls, settings: Settings, place: Place) -> Self:
        """Limits stand beside the options, by the names of costs."""
        table = settings.table(place)
        settings.require_known(place, ({entry.name for entry in fields(cls)} - {"limits"}) | set(COSTS))
        limits = budget_argument(settings, place).asked if set(table) & set(COSTS) else {}
        options = {name: value for name, value in table.items() if name not in COSTS}
        return settings.check(cls, {**options, "limits": limits}, place)

    def check(self, path: Callable[[str], str]) -> None:
        """The device and the target are there."""
        check_device(self.device, path)
        if self.target is not None:
            cost_file(path(self.target))

    def check_limits(self, names: Collection[str]) -> None:
        """Costs of a chip need one."""
        for cost in map(cost_named, names if self.target is None else ()):
            if isinstance(cost, ChipCost):
                raise RecipeError(f"{cost.unknown}: target: mpic")

    @property
    def size_of(self) -> tuple[str, ...]:
        """The formats whose files a limit on size is about; none: no option says it."""
        return ()

    @property
    def needs_budget(self) -> bool:
        """True if the stage has no limit of its own."""
        return not self.limits

    def reads(self, work: StageWork) -> dict[str, Any]:
        """The contents of a device profile and of a cost file, where they are files."""
        return digests_of({"device": self.device, "target": self.target}, work.path)

    def _budget(self, work: StageWork) -> Budget:
        """Its own limits, or those of the recipe with room for what comes later."""
        if self.limits:
            return Budget(**self.limits)
        device = None if self.device == HERE else work.path_of(self.device)
        return with_room(work, formats=self.size_of or work.formats, device=device)

    def _pruning(self, work: StageWork, rectify: str | None, options: Mapping[str, Any]) -> Pruning:
        """All that decides the plan but the budget."""
        rectify = rectify or default_rectification(trained=work.trained, with_data=True)
        shared: dict[str, Any] = {"seed": work.seed, "trained": work.trained, "keep": self.keep}
        shared["chip"] = work.path_of(self.target)
        return Pruning(rectify=rectify, round_to=self.round_to, **shared, **options)

    def _limits_with_bits(self, work: StageWork, pruning: Pruning, *, share: float) -> Budget:
        """The limits of a plan of bits, whose ``size`` is without the graph of a file; see ``without_graph``."""
        budget = self._budget(work)
        return budget if self.limits else without_graph(budget, work, pruning, share=share)

    def _is_pruned(self, work: StageWork) -> bool:
        """Whether the stage was stopped after the networks were in place."""
        has_dense = (work.folder / DENSE / artifact.MANIFEST).exists() or not work.trained
        return (work.folder / artifact.MANIFEST).exists() and has_dense

    def _prune(self, work: StageWork, budget: Budget, pruning: Pruning) -> None:
        prune_artifact(
            artifact.Artifact.open(work.before).source,
            work.folder,
            budget=budget,
            pruning=pruning,
            data=lambda: work.dataset,
            task=work.dataset.task,
            base=work.before,
            examples=len(work.dataset.train),
            allow_import=work.allow_import,
        )


def check_layers(stages: Sequence[RecipeStage], build: Callable[[], nn.Module]) -> None:
    """Raise RecipeError for a layer to keep that the network does not have, before a stage trains for hours."""
    keeping = [(n, stage) for n, stage in enumerate(stages, 1) if isinstance(stage, LimitedStage) and stage.keep]
    model = build() if keeping else nn.Identity()
    for number, stage in keeping:
        try:
            for pattern in stage.keep:
                matching(model, pattern, "layer to keep")
        except UnknownNameError as error:
            raise RecipeError(f"stage {number}, {stage.name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class PruneStage(LimitedStage):
    """Cut channels: of a trained network by what they do, with the weights kept; of an untrained one by shapes alone.

    Without limits it keeps the budget of the recipe, which is about the files that the recipe ends with.
    """

    name: ClassVar[str] = "prune"
    rectify: Annotated[str, one_of(RECTIFICATIONS)] | None = None
    criterion: Annotated[str, one_of({**CRITERIA, **CHANNEL_CRITERIA})] | None = None
    evaluator: Annotated[str, one_of(EVALUATORS)] | None = None
    device: str | None = None
    size_of: Annotated[tuple[Annotated[str, one_of(FORMATS)], ...], LISTED] = ()

    def check(self, path: Callable[[str], str]) -> None:
        """Formats are weighed for a limit on size."""
        super().check(path)
        if self.size_of and self.limits and "size" not in self.limits:
            raise RecipeError("size_of says whose size is limited, and the stage has no limit on size. Leave it out")

    def refused_after(self, earlier: Sequence[RecipeStage], *, trained: bool) -> str:
        """Bits are decided for the channels that are there; evaluators read scores of weights, or of channels."""
        criterion = self._criterion(trained=trained)
        if self.evaluator and criterion in CHANNEL_CRITERIA and evaluator_named(self.evaluator).reads - {"channels"}:
            return (
                f"evaluator {self.evaluator} reads scores of weights, and criterion {criterion} scores channels. Leave "
                "the evaluator out, or name a criterion of weights"
            )
        if any(stage.precision == "plan" for stage in earlier):
            return "bits were decided before it, for the channels that were there then. Put it before the bits stage"
        return ""

    def _criterion(self, *, trained: bool) -> str | None:
        return self.criterion or default_criterion(trained=trained, with_data=True)

    def carry_out(self, work: StageWork) -> None:
        """Prune the network before."""
        if self._is_pruned(work):
            return
        criterion = self._criterion(trained=work.trained)
        evaluator = self.evaluator or usual_evaluator(criterion)
        of_whole = not self.limits
        size_of = work.formats if of_whole and not self.size_of else self.size_of
        int8 = of_whole and work.last_precision == "int8"
        options = {
            "criterion": criterion,
            "evaluator": evaluator,
            "device": work.path_of(self.device),
            "size_of": size_of if "size" in (self.limits or work.budget or ()) else (),
            "precision": "int8" if int8 else None,
        }
        self._prune(work, self._budget(work), self._pruning(work, self.rectify, options))


@dataclass(frozen=True, kw_only=True)
class BitsStage(LimitedStage):
    """Decide bits of weights, and with a 0 among the ``choices`` widths as well: see docs/bits.md."""

    name: ClassVar[str] = "bits"
    precision: ClassVar[str] = "plan"
    choices: tuple[int, ...] = (2, 4, 8)
    activation_bits: tuple[int, ...] = Pruning.activation_bits
    rectify: Annotated[str, one_of(RECTIFICATIONS)] | None = None

    def check(self, path: Callable[[str], str]) -> None:
        """Check bits of weights and activations beside the limits."""
        super().check(path)
        check_bits(self.choices)
        check_activation_bits(self.activation_bits)

    def carry_out(self, work: StageWork) -> None:
        """Decide the bits of the network before."""
        if self._is_pruned(work):
            return
        options = {"bits": self.choices, "activation_bits": self.activation_bits, "evaluator": None}
        pruning = self._pruning(work, self.rectify, options)
        self._prune(work, self._limits_with_bits(work, pruning, share=_OF_PLAN), pruning)


@dataclass(frozen=True, kw_only=True)
class SearchStage(LimitedStage):
    """Decide widths and bits while the network trains, as ``rc.search`` does: see docs/bits.md."""

    name: ClassVar[str] = "search"
    precision: ClassVar[str] = "plan"
    choices: tuple[int, ...] = Searching.bits
    activation_bits: tuple[int, ...] = Searching.activation_bits
    epochs: Positive = Searching.epochs
    warmup: int = Searching.warmup
    finetune: int | None = None
    lr: float = Searching.lr

    @property
    def trains(self) -> bool:
        """True: a search trains the network that it cuts."""
        return True

    def check(self, path: Callable[[str], str]) -> None:
        """Check bits, phases and learning rate beside the limits."""
        super().check(path)
        check_bits(self.choices)
        check_activation_bits(self.activation_bits)
        divided(self.epochs, self.warmup, self.finetune, self.lr)

    def refused_after(self, earlier: Sequence[RecipeStage], *, trained: bool) -> str:
        """It goes on from a training of the same network, or begins with one."""
        if self.warmup or follows_training(earlier, trained=trained):
            return ""
        return "a search begins with weights that were trained. Put a train stage right before it, or say warmup: 5"

    def carry_out(self, work: StageWork) -> None:
        """Search from the network before."""
        if (work.folder / artifact.MANIFEST).exists():
            return  # stopped after the smaller network was in place
        searching = Searching(
            bits=self.choices,
            activation_bits=self.activation_bits,
            epochs=self.epochs,
            warmup=self.warmup,
            finetune=self.finetune,
            lr=self.lr,
            target=work.path_of(self.target),
            keep=self.keep,
            round_to=self.round_to,
            seed=work.seed,
        )
        options = {"bits": self.choices, "activation_bits": self.activation_bits, "evaluator": None}
        pruning = self._pruning(work, None, options)
        search_artifact(
            work.before,
            work.folder,
            work.dataset,
            budget=self._limits_with_bits(work, pruning, share=_OF_SEARCH),
            searching=searching,
            allow_import=work.allow_import,
        )
