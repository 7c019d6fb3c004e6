"""Who reads what a layer gives, while a network runs."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reconvene.structure import tensors_in


class Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Who reads the outputs of cut layers: norms that follow their data, or anything else."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outputs: dict[int, tuple[str, weakref.ref[Tensor]]] = {}
        self._by_norms: Counter[str] = Counter()
        self._by_others: Counter[str] = Counter()
        self._watched: Counter[str] = Counter()
        self._in_norm = False

    def watch(self, name: str, output: Tensor) -> None:
        """Count who reads this from now on."""
        self._outputs[id(output)] = name, weakref.ref(output)
        self._watched[name] += 1

    def enter_norm(self, _: nn.Module, args: Any) -> None:
        """Count the norm as one reader of its input, however many operations it has."""
        self._in_norm = True
        for name in self._names(args):
            self._by_norms[name] += 1

    def leave_norm(self, *_: Any) -> None:
        """Other modules follow."""
        self._in_norm = False

    def is_norm_alone(self, name: str) -> bool:
        """Whether one norm read each output of this name, and nothing else did."""
        return self._by_norms[name] == self._watched[name] and not self._by_others[name]

    def _names(self, args: Any) -> set[str]:
        """The watched outputs among arguments; an address may belong to another tensor by now."""
        found = ((self._outputs.get(id(tensor)), tensor) for tensor in tensors_in(args))
        return {entry[0] for entry, tensor in found if entry is not None and entry[1]() is tensor}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the reads of a call, then make it."""
        if not self._in_norm:
            self._by_others.update(self._names((args, kwargs)))
        return func(*args, **(kwargs or {}))
