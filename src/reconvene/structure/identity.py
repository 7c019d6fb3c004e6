"""Which call of one run is which call of another: the one that reads the same data.

A run on meta and one on real tensors make the same calls but for copies, whose number depends on memory layout and
device. So the identity of a call comes from its layer, its operator and the data it reads; the identity of data comes
from the call that computed it, back to parameters and inputs. Calls that agree in all of these differ by their order.
The identity of a layer's output comes from the layer and its inputs, so that nothing outside the layer depends on its
inner calls (an LSTM makes other calls on another device).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from reconvene.structure.inputs import tensors_in
from reconvene.structure.recording import Recording
from reconvene.structure.state import state_buffers
from reconvene.structure.values import COPIES, operator_name
from reconvene.utils.module_tree import named_modules

_MOST = 4096
"""Numbers in a constant by which it is known."""
_VIEWS = frozenset({"aten::view", "aten::_unsafe_view", "aten::reshape", "aten::_reshape_alias"})
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
        """The identity of the next call, whose results are ``outs``; a copy has the identity of the data it copies."""
        key = self.before(layer, func, args, kwargs)
        self.after(key, func, outs)
        return key

    def before(self, layer: str, func: Any, args: Any, kwargs: Any) -> str:
        """The identity of a call that is about to run; ``after`` must follow, even where the call raises nothing."""
        tensors = tensors_in((args, kwargs))
        if func in COPIES:
            return self._data_identity(tensors[0])
        name = operator_name(func)
        return self._key(f"{layer}|{'view' if name in _VIEWS else name}", tensors)

    def _data_identity(self, tensor: Tensor) -> str:
        return self._data.get(tensor) or _constant(tensor)

    def _key(self, head: str, tensors: Sequence[Tensor]) -> str:
        text = "|".join([head, *(self._data_identity(tensor) for tensor in tensors)])
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        self._turns[digest] += 1
        turn = self._turns[digest]
        return digest if turn == 1 else f"{digest}.{turn}"

    def leave(self, layer: str, arguments: Any, output: Any) -> None:
        """Note the output of a layer."""
        self.after(self._key(f"out of {layer}", tensors_in(arguments)), None, tensors_in(output))

    def after(self, key: str, func: Any, outs: Iterable[Tensor | None]) -> None:
        """Note the results of a call."""
        for position, out in enumerate(outs):
            if out is not None:
                self._data[out] = key if position == 0 else f"{key}:{position}"


def of_calls(recording: Recording) -> list[str]:
    """The identity of every call of the eval pass, in order."""
    identities = Identities(recording.parameters, recording.inputs)
    exits = iter([*recording.exits, (len(recording.ops) + 1, "", [], [])])
    exit_number, path, arguments, result = next(exits)
    out = []
    for number, op in enumerate(recording.ops):
        if op.training:
            break
        while exit_number <= number:
            identities.leave(path, arguments, result)
            exit_number, path, arguments, result = next(exits)
        out.append(identities.of(op.owner, op.func, op.args, op.kwargs, op.outs))
    return out


def first_names(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by the names that a recording gives them; state is not among them."""
    names: dict[int, tuple[str, Tensor]] = {}
    skip = state_buffers(model)
    for prefix, module in named_modules(model):
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            name = f"{prefix}.{key}" if prefix else key
            if tensor is not None and name not in skip:
                names.setdefault(id(tensor), (name, tensor))
    return dict(names.values())


def _constant(tensor: Tensor) -> str:
    """What no call has computed is known by its values, where it has some and they are few."""
    if tensor.is_meta or tensor.numel() > _MOST or tensor.layout is not torch.strided:
        return "constant"
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor
    return f"constant {tensor.dtype} {hashlib.blake2b(bytes(values.tolist()), digest_size=8).hexdigest()}"
