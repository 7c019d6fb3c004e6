"""Which weights files hold in few bits."""

from __future__ import annotations

from torch import nn

from reconvene.structure import Structure
from reconvene.structure.rules.context import arg


def unpackable(model: nn.Module, structure: Structure) -> frozenset[str]:
    """Weights that no layer of an int8 file reads row by row: a plan of bits leaves them alone.

    Recurrent modules are one operator, which runtimes compute in float32. A grouped transposed convolution has the
    output channels of one group as rows, and its bits would be those of all groups.
    """
    recurrent = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, nn.RNNBase)
        for name, _ in module.named_parameters(recurse=False)
    }
    names = {id(tensor): name for name, tensor in structure.recording.parameters.items()}
    grouped = {
        names.get(id(op.args[1]), "")
        for op in structure.eval_ops()
        if op.operator.startswith("convolution") and arg(op, 6, "transposed", False) and arg(op, 8, "groups", 1) > 1
    }
    return frozenset(recurrent | grouped - {""})
