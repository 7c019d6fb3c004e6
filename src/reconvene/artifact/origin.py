"""Where a network comes from: the source of its dense form, and the plans that were applied to that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from reconvene.artifact.derive import derive
from reconvene.artifact.folder import Artifact
from reconvene.artifact.untrusted import check_attributes
from reconvene.errors import ArtifactError, ModelError, PlanError
from reconvene.models import ModelSource
from reconvene.models import example_inputs as inputs_of_shape
from reconvene.surgery.history import note_plans, plans_of

if TYPE_CHECKING:
    from reconvene.surgery import Plan


def remember_origin(model: nn.Module, *, plan: Plan | None, source: ModelSource | None) -> nn.Module:
    """Remember on the module itself where it comes from; ``save`` looks there. Returns the same module."""
    note_plans(model, [] if plan is None else [plan])
    object.__setattr__(model, "reconvene_source", source)  # no part of the module
    return model


def applied_plans(model: nn.Module, plan: Plan | None) -> tuple[Plan, ...]:
    """The plans that made the model: those noted on it, unless the caller names another plan of the dense network."""
    noted = plans_of(model)
    return noted if plan is None or (noted and plan is noted[-1]) else (plan,)


def source_of(
    model: nn.Module, plans: tuple[Plan, ...], source: ModelSource | Mapping[str, Any] | str | None
) -> ModelSource:
    """The source given, else the one noted on the model, else one that is proved to give it. Raises ArtifactError."""
    if isinstance(source, str):
        return ModelSource(source)
    if isinstance(source, Mapping):
        try:
            return ModelSource.from_dict(source)
        except ModelError as error:
            raise ArtifactError(str(error)) from error
    noted = source if source is not None else getattr(model, "reconvene_source", None)
    return noted if isinstance(noted, ModelSource) else derive(model, plans)


def one_plan(dense: nn.Module, source: ModelSource, plans: tuple[Plan, ...]) -> Plan | None:
    """The plan of ``dense`` that does what all plans do in turn. Raises ArtifactError where it cannot be found."""
    # Composing analyses the network, which a save of a network that was pruned once should not import.
    from reconvene.surgery.compose import compose_plans

    if len(plans) < 2:
        return plans[0] if plans else None
    if source.input_shape is None:
        raise ArtifactError(
            f"{len(plans)} plans were applied to {source.address}, and composing them runs the dense network, whose "
            'input shape is not known. Pass source={"address": ..., "input_shape": [...]}'
        )
    inputs = inputs_of_shape(source.input_shape)
    first, *others = plans
    try:
        for plan in others:
            first = compose_plans(dense, inputs, first, plan)
    except PlanError as error:
        raise ArtifactError(f"the plans of this network do not follow from {source.address}: {error}") from error
    return first


def with_plan(dense: nn.Module, source: ModelSource, plan: Plan | None) -> nn.Module:
    """The network that the plan makes of the source's. Raises ArtifactError where it does not fit."""
    if plan is None:
        return dense
    check_attributes(plan, dense)
    try:
        return plan.apply(dense)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"the plan does not fit {source.address}: {type(error).__name__}: {error}") from error


def permitted(stored: Artifact, allow_import: bool) -> ModelSource:
    """The source, if it imports nothing or the caller allows it."""
    if stored.source.imports and not allow_import:
        raise ArtifactError(
            f"{stored.folder} holds a model that is built by importing {stored.source.address}, which runs that code. "
            "If you trust it: allow_import=True, or --allow-import"
        )
    return stored.source
