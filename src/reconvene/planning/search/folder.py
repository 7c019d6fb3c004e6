"""What a search keeps in its folder: a checkpoint, from which a stopped run goes on, and a log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reconvene.artifact.tensors import module_versions
from reconvene.structure.inputs import map_tensors
from reconvene.training.checkpoint import (
    Checkpoint,
    TrainingState,
    load_checkpoint,
    make_folder,
    require_same_run,
    save_checkpoint,
)
from reconvene.training.log import append_log, rewrite_log


class SearchFolder:
    """The folder of one search. Without a ``directory`` nothing is kept.

    ``identity``: what makes the search this one; a run goes on from no other's checkpoint.
    """

    def __init__(self, directory: Path | None, identity: Mapping[str, Any]) -> None:
        self._directory, self.identity = directory, dict(identity)

    def checkpoint(self, *, resume: bool) -> Checkpoint | None:
        """The one that an earlier run of this search left. Raises TrainingError for a checkpoint of another."""
        if self._directory is None or not resume:
            return None
        checkpoint = load_checkpoint(self._directory)
        if checkpoint is not None:
            require_same_run(checkpoint, self.identity, self._directory)
        return checkpoint

    def begin(self, state: TrainingState) -> None:
        """Make the folder, and a log of the records of ``state``. Raises TrainingError."""
        if self._directory is not None:
            make_folder(self._directory)
            rewrite_log(self._directory, state.records)

    def log(self, record: dict[str, Any]) -> None:
        """Add a record to the log."""
        if self._directory is not None:
            append_log(self._directory, record)

    def save(self, state: TrainingState, network: nn.Module, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Replace the checkpoint. ``parts``: tensors beside those of the network, each part under its name."""
        if self._directory is None:
            return
        weights = network.state_dict()
        tensors = {
            f"{part}.{name}": tensor
            for part, of_part in {"model": weights, **parts}.items()
            for name, tensor in of_part.items()
        }
        save_checkpoint(self._directory, self.identity, state, tensors, module_versions(weights))


def numbered_tensors(examples: Any) -> dict[str, Tensor]:
    """The tensors in nested containers, by their place."""
    leaves = [leaf for leaf in pytree.tree_leaves(examples) if isinstance(leaf, Tensor)]
    return {str(number): tensor for number, tensor in enumerate(leaves)}


def with_numbered_tensors(examples: Any, saved: Mapping[str, Tensor]) -> Any:
    """The containers of ``examples`` with the tensors of a checkpoint."""
    tensors = iter([saved[str(number)] for number in range(len(saved))])
    return map_tensors(lambda _: next(tensors), examples)
