"""Our own mechanism nets by name, with inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from architectures import own_attention as attention
from architectures import own_nets as nets
from architectures.entry import Architecture, Built, fill, image

PICTURE = (2, 3, 16, 16)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unet": (nets.UNet, PICTURE),
    "hovernet": (nets.HoVerNet, PICTURE),
    "weight_norm": (nets.with_parametrization, (2, 2, 16)),
    "weight_norm_hook": (nets.with_hook, (2, 2, 16)),
    "conv1d_flatten": (nets.one_dimension, (2, 2, 31)),
    "conv3d": (nets.three_dimensions, (2, 1, 8, 8, 8)),
    "output_tuple": (functools.partial(nets.Outputs, "tuple"), PICTURE),
    "output_dict": (functools.partial(nets.Outputs, "dict"), PICTURE),
    "output_dataclass": (functools.partial(nets.Outputs, "dataclass"), PICTURE),
    "tied_autoencoder": (nets.TiedCoder, (2, 20)),
    "in_place": (nets.InPlace, PICTURE),
    "weight_standardisation": (nets.weight_standardisation, PICTURE),
    "excite_gate": (nets.Excite, PICTURE),
    "shuffle": (nets.Shuffle, PICTURE),
    "single_channel": (nets.SingleChannel, PICTURE),
    "unequal_split": (nets.UnequalSplit, PICTURE),
    "activations": (nets.activations, (2, 3, 9, 9)),
    "lstm": (functools.partial(attention.Recurrent, nn.LSTM), (2, 4, 12)),
    "lstm_both_ways": (functools.partial(attention.Recurrent, nn.LSTM, bidirectional=True), (2, 4, 12)),
    "gru": (functools.partial(attention.Recurrent, nn.GRU), (2, 4, 12)),
    "multihead_attention": (functools.partial(attention.Patches, attention.Library, 4), PICTURE),
    "attention_fused": (functools.partial(attention.Patches, attention.Fused, 4), PICTURE),
    "attention_grouped": (functools.partial(attention.Patches, attention.GroupedQuery, 4, 2), PICTURE),
    "attention_einsum": (functools.partial(attention.Patches, attention.Einsum, 4), PICTURE),
    "mixer": (attention.Mixer, PICTURE),
}
"""Builder and shape of the input."""


def own_architectures() -> list[Architecture]:
    """Every mechanism net."""
    return [
        *(Architecture(f"own/{name}", functools.partial(build, name)) for name in NETS),
        Architecture("own/tied_language", functools.partial(with_tokens, attention.TiedLanguage)),
    ]


def build(name: str) -> Built:
    """The net of this name and random inputs."""
    make, shape = NETS[name]
    return fill(make()), image(*shape)


def with_tokens(make: Callable[[], nn.Module]) -> Built:
    """A net that reads token numbers."""
    return fill(make()), tokens(50, 2, 7)


def tokens(vocabulary: int, *shape: int) -> Tensor:
    """Random token numbers."""
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(0))
