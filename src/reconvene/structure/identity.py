"""Which call of one run is which call of another: the one that reads the same data.

A run on meta and one on real tensors make the same calls but for copies, whose number depends on memory layout and
device. So a call is known by its layer, its operator and the data it reads, and data by the call that computed them, up
to parameters and inputs; calls that agree in all of that are told apart by their order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from reconvene.structure.inputs import tensors_in
from reconvene.structure.values import COPIES, operator_name

_MOST = 4096
"""Numbers in a constant by which it is known."""
VIEWS = frozenset({"aten::view", "aten::_unsafe_view", "aten::reshape", "aten::_reshape_alias"})
"""Operators that are one and the same: which of them ``reshape`` becomes depends on memory layout."""


class Identities:
    """Gives every call of one run its identity, a short text.

    Args:
        parameters: parameters and buffers of the network by their first names.
        inputs: tensors of the inputs, in order.
    """

    def __init__(self, parameters: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> None:
        self._data: Any = WeakIdKeyDictionary()
        self._turns: Counter[str] = Counter()
        for number, tensor in enumerate(inputs):
            self._data[tensor] = f"input {number}"
        for name, tensor in parameters.items():
            self._data[tensor] = name

    def of(self, layer: str, func: Any, args: Any, kwargs: Any, outs: Iterable[Tensor | None]) -> str:
        """The identity of the next call, which has given ``outs``; of a copy, that of the data it copies."""
        key = self.before(layer, func, args, kwargs)
        self.after(key, func, outs)
        return key

    def before(self, layer: str, func: Any, args: Any, kwargs: Any) -> str:
        """The identity of a call that is about to run; ``after`` must follow, even where the call raises nothing."""
        read = [self._data.get(tensor) or _constant(tensor) for tensor in tensors_in((args, kwargs))]
        if func in COPIES:
            return str(read[0])
        name = operator_name(func)
        text = "|".join([layer, "view" if name in VIEWS else name, *read])
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        self._turns[digest] += 1
        turn = self._turns[digest]
        return digest if turn == 1 else f"{digest}.{turn}"

    def after(self, key: str, func: Any, outs: Iterable[Tensor | None]) -> None:
        """Note what a call has computed."""
        for position, out in enumerate(outs):
            if out is not None:
                self._data[out] = key if func in COPIES or position == 0 else f"{key}:{position}"


def _constant(tensor: Tensor) -> str:
    """What no call has computed is known by its values, where it has some and they are few."""
    if tensor.is_meta or tensor.numel() > _MOST or tensor.layout is not torch.strided:
        return "constant"
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor
    return f"constant {tensor.dtype} {hashlib.blake2b(bytes(values.tolist()), digest_size=8).hexdigest()}"
