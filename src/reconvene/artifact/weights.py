"""Weights from outside: files that other programs have saved, put into a model that was built here."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from reconvene.errors import ArtifactError
from reconvene.utils.numbers import plural

_NESTS = ("state_dict", "model_state_dict", "model")
"""Entries under which checkpoints keep the weights."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Put the weights of a ``.safetensors`` file, or of a checkpoint of ``torch.save``, into ``model``, in place.

    A checkpoint is read with ``weights_only``, so nothing in it runs; weights may lie in its entry ``state_dict`` or
    ``model``, and their names may begin with ``module.``, as ``DataParallel`` leaves them. As PyTorch does, it takes
    files that lack the batch counters of norms, or that hold a shared tensor under one of its names. DenseNets of
    torchvision are published with names such as ``norm.1.weight`` for ``norm1.weight``.

    Raises:
        ArtifactError: the file cannot be read, or a weight is missing, unknown or of another shape; the message names
            the first one.
    """
    expected = model.state_dict()
    state = _completed(model, {_renamed(name, expected): value for name, value in _read(Path(path)).items()})
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        parts = [f"it lacks {plural(len(missing), 'weight')}, first {missing[0]!r}"] if missing else []
        if unknown:
            parts.append(f"the network has none of {plural(len(unknown), 'name')} in it, first {unknown[0]!r}")
        # What the file calls otherwise is renamed in the file, so the network's name is the one to suggest.
        nearest = get_close_matches(unknown[0], missing, n=1) if unknown else []
        hint = f" Rename {unknown[0]!r} to {nearest[0]!r}?" if nearest else ""
        raise ArtifactError(f"the weights of {path} are not those of {type(model).__name__}: {'; '.join(parts)}.{hint}")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise ArtifactError(
                f"the weights of {path} are not those of {type(model).__name__}: {name} has shape "
                f"{tuple(state[name].shape)}, and the model {tuple(tensor.shape)}. Were other arguments given "
                "(--model-arg num_classes=...)?"
            )
    model.load_state_dict(state)


def _renamed(name: str, expected: Mapping[str, Tensor]) -> str:
    """The name as DenseNets of torchvision have it now, where the model knows that one and not the name itself."""
    renamed = re.sub(r"\.(norm|relu|conv)\.([12])\.", r".\1\2.", name)
    return renamed if name not in expected and renamed in expected else name


def _completed(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with those that a file may leave out: counters of batches, and further names of shared tensors."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    stored_as = {id(tensors[name]): name for name in state if name in tensors}
    shared = {name: state[stored_as[id(t)]] for name, t in tensors.items() if name not in state and id(t) in stored_as}
    counters = {name: torch.zeros_like(t) for name, t in tensors.items() if name.endswith("num_batches_tracked")}
    return counters | shared | state


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        contents: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ArtifactError(f"the weights {path} cannot be read: {error.strerror or error}") from error
    except (pickle.UnpicklingError, KeyError) as error:  # KeyError: bytes that are no pickle
        if not zipfile.is_zipfile(path):
            raise ArtifactError(f"the weights {path} cannot be read: it is not a checkpoint of torch.save") from error
        raise ArtifactError(
            f"{path} holds more than tensors, such as a whole pickled model, which is code and is not run. Save the "
            "weights alone: torch.save(model.state_dict(), PATH)"
        ) from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError) as error:
        words = str(error).strip().split("\n")[0]
        raise ArtifactError(f"the weights {path} cannot be read: {words}") from error
    nest = next((contents[name] for name in _NESTS if isinstance(contents, Mapping) and name in contents), contents)
    if not isinstance(nest, Mapping) or not all(isinstance(value, Tensor) for value in nest.values()):
        raise ArtifactError(f"{path} holds a {type(nest).__name__}, not weights by name (a state dict)")
    return {str(name).removeprefix("module."): value for name, value in nest.items()}
