"""Checkpoints: one safetensors file, tensors and a JSON header in it, replaced in one step or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from reconvene.artifact.tensors import with_versions
from reconvene.errors import TrainingError
from reconvene.utils.files import write_atomic

CHECKPOINT_NAME = "checkpoint.safetensors"
_FORMAT = 1


@dataclass
class TrainingState:
    """Where a run is: ``step`` steps of epoch ``epoch`` (from 0) are done; the sums are over the epoch in progress.

    ``correct`` sums the task's headline over training images; None where the task does not say it of a batch.

    There is no random state in it: every draw is a function of seed, epoch and step.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: float | None = 0
    seen: int = 0
    seconds: float = 0.0
    finished: bool = False
    evaluation: dict[str, Any] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: which run it belongs to, where that run was, and its tensors by name."""

    run: dict[str, Any]
    state: TrainingState
    tensors: dict[str, Tensor]
    versions: dict[str, int] | None = None
    """Of the model's modules; None where an older version wrote it."""

    def tensors_with_prefix(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix``, by the rest of their names."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def save_checkpoint(
    directory: Path,
    run: Mapping[str, Any],
    state: TrainingState,
    tensors: Mapping[str, Tensor],
    versions: Mapping[str, int],
    *,
    name: str = CHECKPOINT_NAME,
) -> None:
    """Write the checkpoint ``name``: whoever reads it finds the old one or the new one, whole.

    ``versions`` are those of the model's modules, see ``reconvene.artifact.tensors``.

    Raises:
        TrainingError: it cannot be written (full disk, no permission); the previous one is intact.
    """
    header = {"format": _FORMAT, "run": dict(run), "state": asdict(state), "versions": dict(versions)}
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomic(
        directory / name,
        safetensors.torch.save(contiguous, {"reconvene": json.dumps(header, allow_nan=False)}),
        error=TrainingError,
    )


def make_folder(directory: Path) -> None:
    """Make the folder of checkpoints. Raises TrainingError where that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot write to {directory}: {error.strerror or error}.") from error


def load_checkpoint(directory: Path, name: str = CHECKPOINT_NAME) -> Checkpoint | None:
    """Read the checkpoint ``name`` in ``directory``; ``None`` where there is none.

    Raises:
        TrainingError: it is damaged, foreign, or of another format version.
    """
    path = directory / name
    if not path.exists():
        return None
    hint = "Delete it, or train with resume=False (--no-resume), to start over."
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("reconvene")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"the checkpoint {path} is damaged: {error}. {hint}") from error
    if text is None:
        raise TrainingError(f"{path} was not written by reconvene. {hint}")
    try:
        header = json.loads(text)
        if header["format"] != _FORMAT:
            raise TrainingError(f"{path} has format {header['format']}, this version reads {_FORMAT}. {hint}")
        return Checkpoint(header["run"], TrainingState(**header["state"]), tensors, header.get("versions"))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"the header of the checkpoint {path} is damaged: {error!r}. {hint}") from error


def require_same_run(checkpoint: Checkpoint, run: Mapping[str, Any], directory: Path) -> None:
    """Check that ``run`` is the run of the checkpoint. A finished run is also recognised by the weights it ended with.

    Raises:
        TrainingError: the message lists what differs, here and there, and what to do.
    """
    saved, requested = dict(checkpoint.run), dict(run)
    if checkpoint.state.finished and requested.get("weights") == sha256(checkpoint.tensors_with_prefix("model.")):
        requested["weights"] = saved.get("weights")
    if different := differences(requested, saved):
        raise TrainingError(
            f"the checkpoint in {directory} belongs to another run: {different}. Train into another folder, "
            f"or with resume=False (--no-resume) to start over, or ask for the same run again."
        )


def differences(requested: Mapping[str, Any], earlier: Mapping[str, Any]) -> str:
    """The settings in which two runs differ, in words: ``lr is 0.05 now and was 0.1``; empty where they are equal."""
    return "; ".join(
        f"{key} is {_short(requested.get(key))} now and was {_short(earlier.get(key))}"
        for key in dict.fromkeys([*requested, *earlier])
        if requested.get(key) != earlier.get(key)
    )


class Stateful(Protocol):
    """What is learned beside a model: ranges, masks."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its tensors by name."""

    def load_state_dict(self, state: Any) -> Any:
        """Put them back."""


def all_tensors(
    model: nn.Module, momentum: Mapping[str, Tensor], learned: Mapping[str, Stateful] = MappingProxyType({})
) -> dict[str, Tensor]:
    """Every parameter and buffer that the model saves, under ``model.``, and the momentum under ``momentum.``.

    ``learned`` is what training learns beside them, each part under its name.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"momentum.{name}": tensor for name, tensor in momentum.items()}
    for part, stateful in learned.items():
        tensors |= {f"{part}.{name}": tensor for name, tensor in stateful.state_dict().items()}
    return tensors


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    momentum: Mapping[str, Tensor],
    learned: Mapping[str, Stateful] = MappingProxyType({}),
) -> None:
    """Copy the tensors back, into the memory layout that is there."""
    model.load_state_dict(with_versions(checkpoint.tensors_with_prefix("model."), checkpoint.versions, model))
    for name, part in learned.items():
        state = checkpoint.tensors_with_prefix(f"{name}.")
        part.load_state_dict(with_versions(state, None, part) if isinstance(part, nn.Module) else state)
    saved = checkpoint.tensors_with_prefix("momentum.")
    for name, tensor in momentum.items():
        tensor.copy_(saved[name])


def sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names, shapes, types and bytes; in whatever order the tensors come."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _short(value: object) -> str:
    text = str(value)
    is_digest = isinstance(value, str) and len(value) == 64 and " " not in value
    return text[:12] + "..." if is_digest else text
