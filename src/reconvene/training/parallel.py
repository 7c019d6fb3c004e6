"""Several processes training one model: each takes its part of every batch, one exchange a step keeps them equal."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class World:
    """Where one process stands: number ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def shard(self) -> tuple[int, int]:
        """``(rank, size)``, as the batches take it."""
        return self.rank, self.size

    def total(self, values: Tensor) -> Tensor:
        """The sum of everyone's ``values``, the same bits for all."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its mean over the processes, in one exchange."""
        if self.size == 1:
            return
        flat = self.total(torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors]) / self.size)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(part.view(tensor.shape))

    def agrees_on(self, number: int, device: torch.device) -> bool:
        """Whether every process says the same number. All wait here for each other."""
        moments = torch.tensor([number, number * number], dtype=torch.float64, device=device)
        mean, mean_square = (self.total(moments) / self.size).tolist()
        return bool(mean_square == mean * mean)

    def copy_from_first(self, model: nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                contiguous = tensor.detach().contiguous()
                distributed.broadcast(contiguous, src=0)
                tensor.copy_(contiguous)


def local_rank() -> int:
    """Which device of this machine is ours when ``torchrun`` started us, else 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join_world(device: torch.device) -> World:
    """The processes ``torchrun`` started, or those of a group the caller has set up, or this one alone.

    A group that is opened here stays open for the next run of this process: torchrun's store cannot open a second one.
    """
    if not distributed.is_available():
        return World()
    if not distributed.is_initialized():
        if not distributed.is_torchelastic_launched():
            return World()
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave_world)
    return World(distributed.get_rank(), distributed.get_world_size())


def _leave_world() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
