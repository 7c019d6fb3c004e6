"""Weights from outside: files that other programs have saved, put into a model that was built here."""

from __future__ import annotations

import pickle
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
    ``model``, and their names may begin with ``module.``, as ``DataParallel`` leaves them.

    Raises:
        ArtifactError: the file cannot be read, or a weight is missing, unknown or of another shape; the message names
            the first one.
    """
    state = _read(Path(path))
    expected = model.state_dict()
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
