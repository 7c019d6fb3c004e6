"""Training in which channels leave a dense network and come back, until it can be cut to its budget."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from reconvene import artifact
from reconvene.artifact import Training
from reconvene.costs import Budget
from reconvene.data import Dataset
from reconvene.errors import TrainingError
from reconvene.models import example_inputs
from reconvene.planning.pruning import plan_by
from reconvene.planning.regrowth.growing import GoalGrowing
from reconvene.planning.regrowth.regrowth import RAMP
from reconvene.surgery import Plan
from reconvene.training import TrainConfig, evaluate_split, train_model
from reconvene.training.checkpoint import differences
from reconvene.utils.locks import alone_in
from reconvene.utils.progress import stage
from reconvene.workflow.origin import DENSE
from reconvene.workflow.prune import Pruning, Samples, record_of
from reconvene.workflow.train import keep_trained, recipe_of, training_record


def train_growing(
    directory: str | Path,
    dataset: Dataset,
    *,
    epochs: int,
    budget: Budget | None = None,
    pruning: Pruning = Pruning(),  # noqa: B008  # frozen
    regrow: float = 0.1,
    ramp: tuple[float, float] = RAMP,
    config: TrainConfig = TrainConfig(),  # noqa: B008  # frozen
    resume: bool = True,
    allow_import: bool = False,
) -> Training:
    """Train the dense network of an artifact under masks, and keep the network that is cut from it in the artifact.

    An artifact of a dense network, trained or not, becomes one of the small network; a trained dense one is kept in
    ``DIR/dense``. An artifact that was pruned and not trained yet is grown anew from its untrained dense network: its
    plan says the widths, and training says which channels stay. It resumes and repeats as ``train`` does.

    Args:
        budget: what the result keeps; by default the widths of the artifact's own plan.
        pruning: how the widths are planned where there is a budget.
        regrow: see ``Regrowth``.
        ramp: see ``Regrowth``.
        resume: go on from a checkpoint where there is one; otherwise start over.

    Raises TrainingError: among others, without a budget for a dense artifact, or for one that was trained otherwise.
    """
    folder = Path(directory)
    with alone_in(folder, error=TrainingError):
        stored = artifact.Artifact.open(folder)
        limits = None if budget is None else {name: str(value) for name, value in budget.asked.items()}
        grown = {
            "budget": limits,
            "regrow": regrow,
            "ramp": list(ramp),
            "plan_seed": pruning.seed,
            **_unusual(pruning),
        }
        recipe = recipe_of(dataset, epochs, config) | {"growing": grown}
        earlier = stored.timed_training
        if earlier is not None and stored.plan is not None:
            if earlier.asked != recipe:
                different = differences(recipe, earlier.asked)
                raise TrainingError(
                    f"{folder} was pruned and trained already, with other settings: {different}. "
                    "Repeat the earlier call, or grow an artifact of the dense network in another folder"
                )
            return earlier
        if stored.plan is None:
            dense = artifact.load(folder, allow_import=allow_import)
        elif stored.is_trained:
            raise TrainingError(
                f"{folder} was pruned with its trained weights, and growing begins with a dense network. Grow an "
                "artifact of the dense network instead"
            )
        else:
            dense = artifact.dense(folder, allow_import=allow_import)
        goal = _goal(folder, stored.plan, dense, dataset, budget, pruning)
        with stage(f"training {folder} while channels leave and come back"):
            result = train_model(
                dense,
                dataset,
                epochs=epochs,
                directory=folder,
                config=config,
                growing=GoalGrowing(goal, regrow, ramp),
                resume=resume,
            )
        assert result.cut is not None, "masks end in a cut"
        small, plan = result.cut, result.cut.reconvene_plan
        assert isinstance(plan, Plan), "a network that was cut has its plan"
        if stored.plan is None and stored.is_trained and not (folder / DENSE / artifact.MANIFEST).exists():
            trained = artifact.load(folder, allow_import=allow_import)
            artifact.save(trained, folder / DENSE, extra=stored.measurements)
        result = replace(result, evaluation=evaluate_split(small, dataset))
        training = training_record(dataset, epochs, result, recipe, None)
        settings = replace(pruning, criterion=plan.criterion, evaluator=None, rectify="keep", trained=True)
        sections: dict[str, Any] = {"preprocessing": dataset.preprocessing.to_dict()}
        if budget is not None:
            sections["pruning"] = record_of(settings, budget)
        keep_trained(folder, artifact.remember_origin(small, plan=plan, source=stored.source), training, **sections)
        return training


def _unusual(pruning: Pruning) -> dict[str, Any]:
    """Settings of the plan that are not the usual ones, as JSON has them: an older training knows no others."""
    asked, usual = (json.loads(json.dumps(asdict(each))) for each in (pruning, Pruning(seed=pruning.seed)))
    return {name: value for name, value in asked.items() if value != usual[name]}


def _goal(
    folder: Path,
    plan: Plan | None,
    dense: nn.Module,
    dataset: Dataset,
    budget: Budget | None,
    pruning: Pruning,
) -> Plan:
    """The plan whose widths training comes to."""
    if budget is None:
        if plan is None:
            raise TrainingError(
                f"{folder} holds a dense network: say how small it becomes, such as --params 4x, or make a plan first: "
                "reconvene prune MODEL --params 4x -o DIR"
            )
        return plan
    samples = Samples(lambda: dataset, seed=pruning.seed) if budget.needs_data else None
    options = replace(pruning, trained=True).options(samples, dataset.task)
    with stage(f"planning {budget}"):
        return plan_by(dense, example_inputs(dataset.shape, seed=pruning.seed), budget, options)
