"""Random small networks: mechanisms composed at random and deeply, as plain values that print and shrink well.

A network is a ``Spec``; ``build`` turns it into a module and its inputs. Arguments are fitted to the shapes they meet
(groups to a common divisor, kernels to the space), so every drawn spec gives a network that runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from support import random_blocks as blocks
from support import random_oddities as oddities
from support import random_tokens as tokens
from support import random_values as values
from support.random_blocks import Shape

Block = tuple[Any, ...]
"""The name of a mechanism and its arguments; a tuple of blocks is a chain."""


@dataclass(frozen=True)
class Spec:
    """One random network: space, chain of mechanisms, and what surrounds them."""

    blocks: tuple[Block, ...]
    dims: int = 2
    size: int = 6
    width: int = 8
    head: str = "pool"
    outputs: str = "tensor"
    second: str = "none"
    auxiliary: bool = False
    check: str = "none"
    """A check of the values of the input."""
    seed: int = 0

    @property
    def looks_at_values(self) -> bool:
        """Whether a part of it looks at values or widths, so that a named error may refuse it."""
        return self.check != "none" or _holds(self.blocks, "valued")


@dataclass
class Outputs:
    """A dataclass of outputs, as libraries return them."""

    main: Tensor
    more: Tensor


class Net(nn.Module):
    """A stem, the drawn body, and heads."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        shape = (spec.width, *[spec.size] * spec.dims)
        self.stem = blocks.CONVOLUTIONS[spec.dims](3, spec.width, 3, padding=1)
        if spec.second == "image":
            self.second: nn.Module = blocks.CONVOLUTIONS[spec.dims](2, spec.width, 1)
        elif spec.second == "vector":
            self.second = nn.Linear(5, 2 * spec.width)
        elif spec.second == "tokens":
            self.second = nn.Embedding(7, spec.width)
        self.body = nn.Sequential()
        for block in spec.blocks:
            shape = _append(self.body, shape, block)
        channels, space = shape[0], int(torch.Size(shape[1:]).numel())
        if spec.head == "conv":
            self.head: nn.Module = blocks.CONVOLUTIONS[spec.dims](channels, 3, 1)
        else:
            self.head = nn.Linear(channels * (space if spec.head == "flatten" else 1), 4)
        if spec.outputs != "tensor":
            self.more = blocks.CONVOLUTIONS[spec.dims](channels, 2, 1)
        if spec.auxiliary:
            self.auxiliary = nn.Linear(spec.width, 4)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Any:
        x = stem = self._with_second(self.stem(values.checked(x, self.spec.check)), other)
        x = self.body(x)
        if self.spec.head == "conv":
            main = self.head(x)
        elif self.spec.head == "flatten":
            main = self.head(torch.flatten(x, 1))
        else:
            main = self.head(x.mean(tuple(range(2, x.ndim))))
        if self.spec.auxiliary and self.training:
            return {"main": main, "auxiliary": self.auxiliary(stem.flatten(2).amax(2))}
        if self.spec.outputs == "tensor":
            return main
        more = self.more(x)
        if self.spec.outputs == "tuple":
            return main, [more]
        return Outputs(main, more) if self.spec.outputs == "dataclass" else {"main": main, "more": {"inner": more}}

    def _with_second(self, x: Tensor, other: Tensor | None) -> Tensor:
        if other is None:
            return x
        if self.spec.second == "vector":
            scale, shift = self.second(other).view(x.shape[0], -1, *[1] * (x.ndim - 2)).chunk(2, 1)
            return x * scale + shift
        if self.spec.second == "tokens":
            return x + self.second(other).mean(1)[(..., *[None] * (x.ndim - 2))]
        return F.relu(x + self.second(other))


def build(spec: Spec) -> tuple[Net, Any]:
    """The network and its inputs; the same spec gives the same bytes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        net = Net(spec)
        space = [spec.size] * spec.dims
        image = torch.randn(2, 3, *space)
        if spec.second == "image":
            return net, (image, torch.randn(2, 2, *space))
        if spec.second == "vector":
            return net, {"x": image, "other": torch.randn(2, 5)}
        if spec.second == "tokens":
            return net, {"x": image, "other": torch.tensor([[0, 1, 2], [3, 4, 5]])}
        return net, image


def _holds(block: Any, name: str) -> bool:
    """Whether a block, or a chain of blocks, holds this mechanism."""
    return isinstance(block, tuple) and (block[:1] == (name,) or any(_holds(part, name) for part in block))


def _append(chain: nn.Sequential, shape: Shape, block: Block) -> Shape:
    """Build one block on a shape, append it, and find the shape it makes by running it."""
    name, *args = block
    module = BUILDERS[name](shape, *args)
    chain.append(module)
    return _shape_after(module, shape)


def _shape_after(module: nn.Module, shape: Shape) -> Shape:
    modes = [(m, m.training) for m in module.modules()]
    with torch.no_grad():
        out = module.eval()(torch.zeros(2, *shape))
    for part, training in modes:
        part.training = training
    return tuple(out.shape[1:])


def _chain(shape: Shape, chain: tuple[Block, ...]) -> tuple[nn.Sequential, Shape]:
    body = nn.Sequential()
    for block in chain:
        shape = _append(body, shape, block)
    return body, shape


def _residual(shape: Shape, body: tuple[Block, ...], projection: bool, how: str) -> nn.Module:
    inner, out = _chain(shape, body)
    return blocks.Residual(shape, inner, out, projection, how)


def _concat(shape: Shape, branches: tuple[tuple[Block, ...], ...], identity: bool) -> nn.Module:
    return blocks.Concat([_chain(shape, branch)[0] for branch in branches], identity)


def _halves(shape: Shape, left: tuple[Block, ...], right: tuple[Block, ...], how: str) -> nn.Module:
    even = nn.Identity() if shape[0] % 2 == 0 else blocks.pointwise_conv(shape, shape[0] + 1)
    half = (-(-shape[0] // 2), *shape[1:])
    return nn.Sequential(even, blocks.Halves(_chain(half, left)[0], _chain(half, right)[0], how))


def _on_few_tokens(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Attention costs the square of the space, so a large space is made small first."""

    def built(shape: Shape, *args: Any) -> nn.Module:
        if torch.Size(shape[1:]).numel() <= 128:
            return make(shape, *args)
        few = (shape[0], *[3] * (len(shape) - 1))
        return nn.Sequential(blocks.Do(F.interpolate, size=few[1:]), make(few, *args))

    return built


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "conv": blocks.conv,
    "depthwise": blocks.depthwise,
    "transposed": blocks.transposed,
    "norm": blocks.norm,
    "activation": blocks.activation,
    "pool": blocks.pool,
    "resize": blocks.resize,
    "gated": blocks.Gated,
    "squeeze": blocks.Squeeze,
    "shuffle": blocks.shuffle,
    "pixels": blocks.pixels,
    "padded shortcut": blocks.PaddedShortcut,
    "space gate": blocks.SpaceGate,
    "softmax": lambda shape, over: blocks.Softmax(over),
    "layer scale": blocks.LayerScale,
    "mixer": _on_few_tokens(tokens.Mixer),
    "convnext": _on_few_tokens(tokens.ConvNext),
    "attention": _on_few_tokens(tokens.Attention),
    "known heads": _on_few_tokens(tokens.KnownHeads),
    "encoder": _on_few_tokens(tokens.Encoder),
    "recurrent": _on_few_tokens(tokens.Recurrent),
    "windows": tokens.Windows,
    "odd": oddities.odd,
    "valued": values.valued,
    "twice": blocks.Twice,
    "interleave": blocks.Interleave,
    "gram": lambda shape, how: tokens.Gram(how),
    "padded": lambda shape, how: blocks.Padded(how),
    "dense": blocks.Dense,
    "residual": _residual,
    "concat": _concat,
    "halves": _halves,
}

_WIDTH = st.sampled_from([4, 6, 8, 12])


def _block(name: str, *args: st.SearchStrategy[Any]) -> st.SearchStrategy[Block]:
    return st.tuples(st.just(name), *args)


def _one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


_CONV = _block(
    "conv",
    _WIDTH,
    _one_of(3, 1),
    _one_of(1, 2),
    _one_of(1, 2),
    _one_of("zeros", "circular", "replicate", "reflect", "valid"),
    _one_of(1, 2, 4),
    st.booleans(),
)
_NORM = _block(
    "norm",
    _one_of("batch", "group1", "group2", "group4", "layer", "layer-all", "rms", "instance", "instance-stats"),
    st.booleans(),
)
LEAVES: tuple[st.SearchStrategy[Block], ...] = (
    _CONV,
    _CONV,
    _NORM,
    _block("activation", st.sampled_from(sorted(blocks.ACTIVATIONS))),
    _block("depthwise", _one_of(3, 1), _one_of(1, 2)),
    _block("transposed", _WIDTH, _one_of(1, 2), _one_of(1, 2)),
    _block("pool", _one_of("max", "average", "adaptive")),
    _block("resize", _one_of("nearest", "linear")),
    _block("gated", _WIDTH, _one_of("glu", "chunk", "split", "slice", "view", "unbind")),
    _block("squeeze", _one_of(2, 4), _one_of("conv", "expand", "linear")),
    _block("shuffle", _one_of(2, 4), _one_of("view", "flatten", "module")),
    _block("pixels", _one_of("shuffle", "unshuffle")),
    _block("padded shortcut", _one_of(1, 4), _one_of("pad", "cat")),
    _block("space gate", _one_of("cbam", "max", "unit", "centre", "sum", "counted")),
    _block("softmax", _one_of("space", "channels")),
    _block("layer scale", _one_of("full", "view")),
    _block("mixer", _WIDTH),
    _block("convnext", _WIDTH),
    _block(
        "attention", _one_of(1, 2), _one_of(2, 4), _one_of("joint", "chunk", "separate", "fused", "scaled", "rotary")
    ),
    _block("known heads", _one_of(2, 4), _one_of(2, 4), _one_of("plain", "grouped", "biased")),
    _block("encoder", _WIDTH, _one_of("attention", "weights", "layer")),
    _block("recurrent", _WIDTH, _one_of("lstm", "gru", "rnn", "lstm2", "gru2")),
    _block("windows"),
    _block("odd", st.sampled_from(sorted(oddities.ODDITIES))),
    _block("odd", st.sampled_from(sorted(oddities.ODDITIES))),
    _block("valued", st.sampled_from(sorted(values.VALUED))),
    _block("valued", st.sampled_from(sorted(values.VALUED))),
    _block("valued", st.sampled_from(sorted(values.VALUED))),
    _block("twice", _one_of("same", "tied", "transposed")),
    _block("interleave", _WIDTH, _one_of("sum", "inner", "outer", "constant", "minimum", "where", "repeat")),
    _block("gram", _one_of("plain", "softmax", "einsum")),
    _block("padded", _one_of("pad", "roll", "flip", "replicate", "cut")),
    _block("dense", _one_of(2, 4), _one_of(1, 2)),
)


def _chains(depth: int, longest: int) -> st.SearchStrategy[tuple[Block, ...]]:
    return st.lists(_blocks(depth), min_size=1, max_size=longest).map(tuple)


def _blocks(depth: int) -> st.SearchStrategy[Block]:
    """One block; with depth left, also blocks that hold chains of others."""
    if depth == 0:
        return st.one_of(*LEAVES)
    inner = _chains(depth - 1, 2)
    holders = (
        _block("residual", inner, st.booleans(), _one_of("relu", "alpha", "in-place", "multiply")),
        _block("concat", st.lists(inner, min_size=1, max_size=3).map(tuple), st.booleans()),
        _block("halves", inner, inner, _one_of("chunk", "slice", "narrow", "split", "tensor_split", "buffer")),
    )
    return st.one_of(st.one_of(*LEAVES), st.one_of(*holders))


def specs(*, depth: int = 2, longest: int = 4) -> st.SearchStrategy[Spec]:
    """Random networks; simplest first, so that a failing one shrinks to its mechanism."""
    return st.builds(
        Spec,
        blocks=_chains(depth, longest),
        dims=_one_of(2, 1, 3),
        size=_one_of(6, 4, 5, 8),
        width=_one_of(8, 4, 6, 12, 16),
        head=_one_of("pool", "flatten", "conv"),
        outputs=_one_of("tensor", "tuple", "dict", "dataclass"),
        second=_one_of("none", "none", "image", "vector", "tokens"),
        auxiliary=st.booleans(),
        check=_one_of("none", "none", "none", "nan", "finite", "item", "bool"),
        seed=st.integers(0, 2**16),
    )
