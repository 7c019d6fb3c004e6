"""What a training step minimises: the task alone, or also what a trained, larger network makes of the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reconvene.errors import TrainingError
from reconvene.structure.copies import copy_model
from reconvene.structure.fresh import call_afresh, know_state
from reconvene.surgery import Plan
from reconvene.surgery.ranges import from_text
from reconvene.tasks import Task
from reconvene.training.checkpoint import sha256
from reconvene.training.config import Settled, TrainConfig
from reconvene.training.evaluate import outputs_in_float32
from reconvene.training.memory_format import put_in_channels_last

_Objective = Callable[[Tensor, Any, Tensor], Tensor]
"""From images ``[B, C, H, W]``, the model's outputs for them and their targets to the loss."""


@dataclass(frozen=True)
class Distillation:
    """Learning from a teacher (Hinton, Vinyals and Dean 2015, arXiv 1503.02531), and from its features.

    With teacher outputs ``t``, student outputs ``s``, temperature ``T`` and weight ``w`` the loss is
    ``(1 - w) loss(s, targets) + w soft_loss(s, t, T) + features * hint``; where outputs are scores of classes,
    ``soft_loss`` is ``T^2 KL(softmax(t / T) || softmax(s / T))``.

    ``hint`` is the mean over layers of ``mean((a - b)^2) / mean(b^2)``, where ``a`` is what a batch norm (without any:
    a convolution) of the student outputs and ``b`` the output of the layer of the same name in the teacher, in just
    those channels that the plan kept. FitNets (Romero et al. 2015, arXiv 1412.6550) learns a projection between the
    two; a pruned layer's channels are a subset of the dense one's, so none is needed.
    """

    teacher: nn.Module
    """Trained already; it is only read, and runs in eval mode."""
    temperature: float = 4.0
    weight: float = 0.5
    """Share of the teacher's outputs in the loss, in [0, 1]."""
    features: float = 0.0
    """Weight of the hint; 0 leaves it out."""
    plan: Plan | None = None
    """What the student was pruned by; needed for the hint alone. None: it is as wide as the dense network."""
    teacher_plan: Plan | None = None
    """What the teacher was pruned by, a plan of the same dense network; None: it is the dense network."""

    def check(self, config: TrainConfig) -> None:
        """Raise TrainingError for values that cannot work, named with what would."""
        wrong = {
            "temperature must be above 0": not 0 < self.temperature < math.inf,
            "weight must be in [0, 1]": not 0 <= self.weight <= 1,
            "features must not be negative": not 0 <= self.features < math.inf,
            "features cannot be followed in a compiled model": self.features > 0 and config.compile,
        }
        if violations := [rule for rule, broken in wrong.items() if broken]:
            raise TrainingError(f"cannot learn from a teacher: {'; '.join(violations)}.")

    def to_dict(self) -> dict[str, Any]:
        """The settings that identify this distillation, in JSON types; the teacher by the digest of its tensors."""
        settings = {"temperature": self.temperature, "weight": self.weight, "features": self.features}
        return {"teacher": sha256(self.teacher.state_dict()), **settings}


def task_alone(task: Task, config: Settled) -> _Objective:
    """The loss of the task."""

    def loss(_: Tensor, output: Any, target: Tensor) -> Tensor:
        return task.training_loss(output, target, label_smoothing=config.label_smoothing)

    return loss


def with_teacher(
    distillation: Distillation, student: nn.Module, task: Task, config: Settled, images: Tensor
) -> _Objective:
    """The objective of ``Distillation`` for ``student``, which gets hooks where its features are followed.

    ``images``: a few, normalised, on the device of training; the teacher is tried on them.

    Raises TrainingError: no layer's features can be matched.
    """
    device = images.device
    teacher = copy_model(distillation.teacher).to(device).requires_grad_(False).eval()
    last = config.channels_last and put_in_channels_last(teacher, images, device=device, precision=config.precision)
    layout = torch.channels_last if last else torch.contiguous_format
    know_state(teacher, images)  # before the hooks, which the recorded pass must not meet
    task_loss = task_alone(task, config)
    hint = Hint(teacher, student, distillation.plan, distillation.teacher_plan) if distillation.features else None

    def loss(images: Tensor, output: Any, target: Tensor) -> Tensor:
        bf16 = torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")
        with torch.no_grad(), bf16:
            teacher_output = outputs_in_float32(call_afresh(teacher, images.contiguous(memory_format=layout)))
        share = distillation.weight
        total = (1 - share) * task_loss(images, output, target)
        total = total + share * task.soft_loss(output, teacher_output, distillation.temperature)
        return total if hint is None else total + distillation.features * hint.loss()

    return loss


class Hint:
    """How far the student's features are from those of the teacher's channels that were kept."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module, plan: Plan | None, teacher_plan: Plan | None = None
    ) -> None:
        teacher_layers, student_layers = dict(teacher.named_modules()), dict(student.named_modules())
        kinds: tuple[type[nn.Module], ...] = (_BatchNorm,)
        if not any(isinstance(module, kinds) for module in student_layers.values()):
            kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        self.kept: dict[str, Tensor] = {}
        self.student_features: dict[str, list[Tensor]] = {}
        self.teacher_features: dict[str, list[Tensor]] = {}
        for name, module in student_layers.items():
            teacher_layer = teacher_layers.get(name)
            if teacher_layer is None or not isinstance(module, kinds) or type(teacher_layer) is not type(module):
                continue
            kept = _followed(name, module, teacher_layer, plan, teacher_plan)
            if kept is None:
                continue
            self.kept[name] = kept
            module.register_forward_hook(_keep(self.student_features, name, training=True))
            teacher_layer.register_forward_hook(_keep(self.teacher_features, name, training=False))
        if not self.kept:
            raise TrainingError(
                "no layer of the student has the name and the kept channels of one of the teacher's, so features "
                "cannot be matched. Take the dense network that it was pruned from as the teacher, or features=0."
            )

    def loss(self) -> Tensor:
        """The hint for the batch that both have just seen; what was kept of it is forgotten."""
        losses = []
        for name, kept in self.kept.items():
            own, taught = self.student_features.pop(name, []), self.teacher_features.pop(name, [])
            if len(own) != len(taught):
                raise TrainingError(
                    f"{name} runs {len(own)} times in a step of the student (it may be kept in eval mode, or be "
                    f"computed again in the backward pass) and {len(taught)} times in the teacher: their features "
                    "cannot be matched. Take features=0."
                )
            for a, b in zip(own, taught, strict=True):
                matched = b.index_select(1, kept.to(b.device)).float()
                if a.shape != matched.shape:
                    raise TrainingError(
                        f"{name} outputs {list(a.shape)} in the student and {list(matched.shape)} in the teacher: "
                        "their features cannot be matched. Take features=0."
                    )
                losses.append((a.float() - matched).square().mean() / matched.square().mean().clamp_min(1e-6))
        return torch.stack(losses).mean()


def _keep(features: dict[str, list[Tensor]], name: str, *, training: bool) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        # Without gradients (evaluation, statistics taken anew) the student passes alone, and the teacher sees nothing.
        if module.training == training and (not training or torch.is_grad_enabled()):
            features.setdefault(name, []).append(output.clone())  # an activation behind may write into it

    return hook


def _followed(
    name: str, module: nn.Module, teacher_layer: nn.Module, plan: Plan | None, teacher_plan: Plan | None
) -> Tensor | None:
    """The teacher's channels that the student's layer follows, by their number there; None where there are no such."""
    shapes = [chosen.shapes for chosen in (plan, teacher_plan) if chosen is not None]
    tensors = (f"{name}.weight", f"{name}.running_mean")
    widths = [shape[tensor][0] for shape in shapes for tensor in tensors if tensor in shape]
    dense = widths[0] if widths else _width(teacher_layer)
    kept, in_teacher = _kept(plan, name, dense=dense), _kept(teacher_plan, name, dense=dense)
    if len(kept) != _width(module) or len(in_teacher) != _width(teacher_layer):
        return None
    positions = torch.searchsorted(in_teacher, kept).clamp_max(len(in_teacher) - 1)
    return positions if bool((in_teacher[positions] == kept).all()) else None


def _kept(plan: Plan | None, name: str, *, dense: int) -> Tensor:
    """The channels of a layer that stayed, by their dense number."""
    slices: Mapping[str, Mapping[int, str]] = {} if plan is None else plan.slices
    for tensor in ("weight", "running_mean"):
        text = slices.get(f"{name}.{tensor}", {}).get(0)
        if text is not None:
            return torch.from_numpy(from_text(text))
    return torch.arange(dense)


def _width(module: nn.Module) -> int:
    return int(getattr(module, "num_features", getattr(module, "out_channels", 0)))
