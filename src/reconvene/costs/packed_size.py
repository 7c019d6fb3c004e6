"""Bytes of a network whose weights are packed into a few bits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from reconvene.costs.batch_norms import batch_norms
from reconvene.costs.file_size import FileSize
from reconvene.costs.formula import Formula
from reconvene.costs.layer_rule import KINDS, LINEAR, SIZES, LayerCosts, LayerRule

if TYPE_CHECKING:
    from reconvene.costs.base import CostFunction
    from reconvene.costs.layers import Layer
    from reconvene.structure import Structure

_PACKED = LayerRule(
    KINDS, None, None, (), Formula("ceil(weights * w / 8) + 8 * k", SIZES, place="size"), per_weight=True
)
_FLOAT, _INT8 = 4, 1
_UNFOLDED_NORM = 13
"""Bytes a channel: the weight in int8, the bias in int32, mean and variance in float32."""
_NOTHING = LayerRule(KINDS, None, None, (), Formula("0", SIZES, place="size"), per_weight=True)


class PackedSize(FileSize):
    """Bytes of packed weights, with a scale and a bias of 32 bits a channel, and of the other parameters in float32.

    Batch norms that no layer takes in count as ONNX Runtime's tool writes them. Embedding tables, and weights that
    cannot be packed, count 8 bits each; weights of recurrent modules count as float32. What a file has beside that,
    its graph and its header, is not counted.
    """

    condition = "of packed weights, scales and biases, without the graph of a file"

    def layer_costs(self, layers: Sequence[Layer], unpacked: Collection[str]) -> LayerCosts:
        """The part that layers have, at any bits."""
        rules = [_PACKED if layer.weight and layer.weight not in unpacked else _NOTHING for layer in layers]
        return LayerCosts(layers, rules, 8, lambda total: total)

    def beside(self, structure: Structure, layers: Sequence[Layer], unpacked: Collection[str]) -> CostFunction:
        """The part that no layer has: other parameters that the network reads, and norms that are not folded."""
        from reconvene.costs.base import CostFunction
        from reconvene.costs.sizes import Products, sizes_of

        sizes, tensors, norms = sizes_of(structure), structure.context.tensors, batch_norms(structure)
        weights = {layer.weight for layer in layers if layer.weight} - set(unpacked)
        counted = weights | {f"{name.removesuffix('weight')}bias" for name in weights if name.endswith("weight")}
        counted |= {name for norm in norms for name in norm.parameters}
        read = {id(tensor) for op in structure.eval_ops() for tensor in op.tensors}
        twins = structure.recording.parameters
        names = [name for name in structure.shapes if name not in counted and id(twins[name]) in read]
        in_int8 = {layer.weight for layer in layers if layer.weight in unpacked and layer.kind != LINEAR}
        terms = {name: (tensors[id(twins[name])], _INT8 if name in in_int8 else _FLOAT) for name in names}
        for name in _tables(structure):  # beside the packed weight, where they are tied
            terms[name] = tensors[id(twins[name])], _INT8
        for norm in norms:
            if not norm.folded:  # one that is called twice is in the file once
                terms[norm.mean] = (tensors[id(twins[norm.mean])], _UNFOLDED_NORM)
        dims, factors = [dims for dims, _ in terms.values()], [factor for _, factor in terms.values()]
        products = Products(sizes, dims, factors) if dims else None
        return CostFunction(lambda widths: products.at(sizes.at(widths)) if products is not None else 0.0)


def _tables(structure: Structure) -> set[str]:
    """Parameters that embeddings read, which files hold in 8 bits."""
    names = {id(tensor): name for name, tensor in structure.recording.parameters.items()}
    ops = structure.eval_ops()
    aliases = {id(op.outs[0]): id(op.args[0]) for op in ops if op.operator in ("alias", "detach")}
    read = {aliases.get(id(op.args[0]), id(op.args[0])) for op in ops if op.operator == "embedding"}
    return {names[tensor] for tensor in read if tensor in names}
