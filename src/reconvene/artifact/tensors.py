"""A model's state as safetensors and back, bit for bit, tied tensors included."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from reconvene.errors import ArtifactError


def encode(state: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """A state dict as safetensors bytes, and the aliases: tied name to the name under which its tensor is stored.

    safetensors refuses tensors that share memory: equal views are stored once, other overlaps are stored apart.

    Raises ArtifactError for what is no dense tensor.
    """
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            type_name = f"a {tensor.layout} tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ArtifactError(f"{name} cannot be kept: it is {type_name}, and an artifact holds dense tensors only")
        view = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and view in first:
            aliases[name] = first[view]
            continue
        first[view] = name
        stored[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return safetensors.torch.save(stored), aliases


def decode_tensors(data: bytes, aliases: Mapping[str, str], folder: Path) -> dict[str, Tensor]:
    """The state dict that ``encode`` was given. Raises ArtifactError where the bytes are no safetensors."""
    try:
        state: dict[str, Tensor] = safetensors.torch.load(data)
        return {**state, **{name: state[stored] for name, stored in aliases.items()}}
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"the weights of {folder} cannot be read: {error}") from error


def module_versions(state: Mapping[str, Any]) -> dict[str, int]:
    """Versions of the modules that a state dict came from, by path; without those of version 1, torch's default.

    ``load_state_dict`` hands them to the modules, which migrate older tensors by them.
    """
    metadata: Mapping[str, Mapping[str, Any]] = getattr(state, "_metadata", {})
    versions = {path: entry.get("version") for path, entry in metadata.items()}
    return {path: version for path, version in versions.items() if isinstance(version, int) and version != 1}


def with_versions(
    state: Mapping[str, Tensor], versions: Mapping[str, int] | None, model: nn.Module
) -> OrderedDict[str, Tensor]:
    """``state`` as ``load_state_dict`` takes it, with the versions of the modules that it came from.

    ``versions`` None: it was saved before versions were kept; the versions of ``model`` are then used.
    """
    version_of = module_versions(model.state_dict()) if versions is None else versions
    full_state = OrderedDict(state)
    metadata = {path: {"version": version_of.get(path, 1)} for path, _ in model.named_modules(remove_duplicate=False)}
    full_state._metadata = metadata  # type: ignore[attr-defined]  # where torch keeps them
    return full_state


def fill_model(model: nn.Module, state: Mapping[str, Tensor], versions: Mapping[str, int] | None) -> None:
    """Put ``state`` into the model in the dtype in which it was saved. The shapes must have been compared.

    ``versions`` as for ``with_versions``. Raises ArtifactError where a module does not take its tensors.
    """
    for name, target in model.state_dict(keep_vars=True).items():
        if target.dtype != state[name].dtype:
            # load_state_dict would cast in silence: a float64 model would come back rounded. ``data`` keeps ties.
            target.data = target.data.to(state[name].dtype)
    try:
        model.load_state_dict(with_versions(state, versions, model), strict=True)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{type(model).__name__} does not take the saved tensors: {error}") from error


def require_same_tensors(built: Mapping[str, Any], state: Mapping[str, Any], description: str) -> None:
    """Raise ArtifactError unless both hold the same names with the same shapes."""
    missing, surplus = sorted(state.keys() - built.keys()), sorted(built.keys() - state.keys())
    if missing or surplus:
        raise ArtifactError(
            f"{description} is another model: it lacks {_some(missing)} and has {_some(surplus)} besides"
        )
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.shape != built[name].shape:
            shapes = f"{tuple(built[name].shape)}, but the saved one {tuple(tensor.shape)}"
            raise ArtifactError(f"{description} is another model: its {name} has shape {shapes}")


def _some(names: list[str]) -> str:
    listed = ", ".join(names[:3]) or "nothing"
    return listed + (f" and {len(names) - 3} more" if len(names) > 3 else "")
