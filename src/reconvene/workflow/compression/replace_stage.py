"""The stage that puts cheaper forms in the place of non-linear operations, blended in while the network trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from torch import nn

from reconvene import artifact
from reconvene.planning.operations.replacement import Replaced, choose_replacements
from reconvene.surgery.operations import blended, operations, unblended
from reconvene.training import Distillation, TrainConfig, train_model
from reconvene.training.checkpoint import CHECKPOINT_NAME
from reconvene.utils.invalid_values import Place
from reconvene.utils.progress import note, stage
from reconvene.utils.settings import LISTED, Settings, one_of
from reconvene.workflow.compression.stage import RecipeStage, StageWork, check_device, digests_of, read_beside_recipe
from reconvene.workflow.deploy import calibration_of
from reconvene.workflow.train import recipe_of, training_record

REPLACED = "replaced"
_SAMPLES = 128
"""Training images that losses are estimated on, and forms fitted to."""


@dataclass(frozen=True, kw_only=True)
class ReplaceStage(RecipeStage):
    """Replace operations as ``rc.replace`` does, then train while the new forms are blended in.

    Attributes:
        allow: operations that may be left; by default all.
        price: share of what the operations cost that they may cost afterwards; by default no limit.
        epochs: of training; 0: none, the forms are put in at once.
        temperature, weight: of the distillation from the network before; a weight of 0 leaves the teacher out.
        recipe: values of ``TrainConfig`` by name; what is left out is as usual.
    """

    name: ClassVar[str] = "replace"
    allow: Annotated[tuple[Annotated[str, one_of(operations)], ...], LISTED] | None = None
    price: float | None = None
    epochs: int = 0
    temperature: float = 4.0
    weight: float = 0.5
    device: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, settings: Settings, place: Place) -> Self:
        """Values of ``TrainConfig`` stand beside the stage's own options."""
        chosen = read_beside_recipe(cls, settings, place)
        if chosen.allow is None and chosen.price is None:
            settings.fail(place, "replace needs what to allow, such as allow: [relu, relu6], or a price, such as 0.5")
        if chosen.price is not None and not 0 < chosen.price <= 1:
            settings.fail(
                (*place, "price"), f"price {chosen.price} is not a share of what the operations cost: above 0, up to 1"
            )
        if chosen.epochs < 0:
            settings.fail((*place, "epochs"), f"epochs {chosen.epochs} must be at least 0")
        trained = [name for name in settings.table(place) if name not in ("allow", "price", "device", "epochs")]
        if trained and not chosen.epochs:
            settings.fail((*place, trained[0]), f"{trained[0]} is about training, which needs epochs. Say epochs: 2")
        return chosen

    @property
    def trains(self) -> bool:
        """With epochs."""
        return self.epochs > 0

    def check(self, path: Callable[[str], str]) -> None:
        """The lesson, and the device."""
        Distillation(nn.Identity(), self.temperature, self.weight).check(TrainConfig(**self.recipe))
        check_device(self.device, path)

    def reads(self, work: StageWork) -> dict[str, Any]:
        """The contents of the device's profile, where it is a file, and the precision that operations are priced in."""
        priced = {} if self.price is None else {"precision": work.last_precision}
        return {**digests_of({"device": self.device}, work.path), **priced}

    def carry_out(self, work: StageWork) -> None:
        """Choose the forms, which is kept at once, and train."""
        chosen = work.folder / REPLACED
        if not (chosen / artifact.MANIFEST).exists():
            self._choose(work, chosen)
        if not (work.folder / artifact.MANIFEST).exists():
            if self.epochs:
                self._train(work, chosen)
            else:
                artifact.copy_artifact(chosen, work.folder)
        (work.folder / CHECKPOINT_NAME).unlink(missing_ok=True)  # what it was for is in the artifact now

    def _choose(self, work: StageWork, folder: Path) -> None:
        """The network with its new forms, not trained yet; prices are measured, so the choice is never made twice."""
        model = artifact.load(work.before, allow_import=work.allow_import).eval()
        with stage("choosing forms of operations"):
            result = self.choice(model, work)
        note(str(result))
        losses = {row.path: row.loss for row in result.rows}
        operations_section = artifact.ReplacedOperations(result.largest, losses)
        artifact.save(result.model, folder, extra={"operations": operations_section})

    def choice(self, model: nn.Module, work: StageWork) -> Replaced:
        """The forms for a network in eval mode, by the data of the recipe."""
        return choose_replacements(
            model,
            work.inputs,
            allow=self.allow,
            budget=self.price,
            data=calibration_of(work.dataset, _SAMPLES, seed=work.seed),
            loss=work.dataset.task.loss,
            device=work.path_of(self.device),
            precision="int8" if work.last_precision == "int8" else "fp32",
            seed=work.seed,
        )

    def _train(self, work: StageWork, chosen: Path) -> None:
        """Train the network before into the one with the new forms."""
        before = artifact.load(work.before, allow_import=work.allow_import)
        after = artifact.load(chosen, allow_import=work.allow_import)
        stored = artifact.Artifact.open(chosen)
        earlier = artifact.Artifact.open(work.before).source.replaced
        new = {path: text for path, text in stored.source.replaced.items() if earlier.get(path) != text}
        assert stored.operations is not None, "saved with it"
        student = blended(before, new, after, stored.operations.largest)
        config = TrainConfig(**{"seed": work.seed, **self.recipe})
        with stage(f"training {work.folder.name}"):
            result = train_model(
                student,
                work.dataset,
                epochs=self.epochs,
                directory=work.folder,
                config=config,
                distillation=self._distillation(before),
            )
        model = unblended(student)
        artifact.remember_origin(model, plan=stored.plan, source=stored.source)
        training = training_record(
            work.dataset, self.epochs, result, recipe_of(work.dataset, self.epochs, config), None
        )
        sections = {"training": training.untimed(), "preprocessing": work.dataset.preprocessing.to_dict()}
        timings = artifact.Timings.of(training, pruning=stored.timings.pruning)
        artifact.save(model, work.folder, extra={**stored.measurements, **sections}, timings=timings)

    def _distillation(self, before: nn.Module) -> Distillation | None:
        return Distillation(before, self.temperature, self.weight) if self.weight else None
