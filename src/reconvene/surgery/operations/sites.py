"""Where a network computes non-linear operations, from a recorded run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from reconvene.structure.capture import record_forward
from reconvene.structure.recording import Op
from reconvene.surgery.operations.forms import calls


@dataclass(frozen=True)
class OperationSite:
    """One place.

    Attributes:
        path: of the module that computes it.
        operation: its name in the table.
        replaceable: whether the module computes nothing else, so that another can stand in its place.
        axis: dimension of the channels, of norms: 1 or -1.
    """

    path: str
    operation: str
    replaceable: bool
    axis: int = -1

    def __str__(self) -> str:
        return f"{self.operation} in {self.path or 'the model itself'}"


def find_sites(model: nn.Module, example_inputs: Any) -> list[OperationSite]:
    """Every non-linear operation of the table that a pass in eval mode computes, in the order of the calls."""
    return sites_of(model, record_forward(model, example_inputs).ops)


def sites_of(model: nn.Module, ops: Iterable[Op]) -> list[OperationSite]:
    """The same from calls that were recorded."""
    modules = dict(model.named_modules())
    sites_by_call: dict[tuple[str, str], OperationSite] = {}
    inner: dict[str, list[Op]] = {}
    for op in ops:
        if not op.training:
            inner.setdefault(op.owner, []).append(op)
    for owner, owned in inner.items():
        for op in owned:
            operation = calls().get(op.operator.removesuffix("_"))
            if operation is None:
                continue
            module = modules.get(owner)
            alone = module is not None and not any(True for _ in module.children()) and _is_only(operation, owned)
            sites_by_call.setdefault((owner, operation), OperationSite(owner, operation, alone, _axis(op, owned)))
    return list(sites_by_call.values())


def _is_only(operation: str, owned: Iterable[Op]) -> bool:
    """Whether a module's other calls only arrange what the operation reads and gives."""
    others = [op.operator.removesuffix("_") for op in owned]
    return all(calls().get(name) == operation or name in _ARRANGING for name in others)


_ARRANGING = frozenset(
    ("permute", "transpose", "view", "_unsafe_view", "reshape", "clone", "contiguous", "detach", "alias")
)


def _axis(op: Op, owned: list[Op]) -> int:
    """Of a norm whose input has its channels moved to the end first, as ConvNeXt does: the second dimension."""
    moved = any(other.operator in ("permute", "transpose") for other in owned)
    return 1 if moved else -1
