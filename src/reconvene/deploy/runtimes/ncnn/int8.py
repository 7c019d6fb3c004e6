"""int8 for ncnn: its wheel has no quantisation tool, so this writes what ncnn's own ``ncnn2int8`` would.

A layer takes float32, turns it to int8 by one scale, and multiplies with int8 weights of one scale per output channel
(per group in a depthwise convolution). Layouts: ``load_model`` of each layer, and ``ModelBin``, in ncnn's source.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from reconvene.deploy.model_io import leaves
from reconvene.deploy.quantisation import Quantisation, quantised_layers
from reconvene.deploy.tracing import in_order
from reconvene.errors import ExportError

if TYPE_CHECKING:
    from reconvene.deploy.runtimes.ncnn.runtime import NcnnSession

_Floats = NDArray[np.float32]
RAW, INT8 = 0, 0x000D4B38
"""The tags before a weight: float32 follows, or int8 padded to four bytes."""
# Which parameter of the layer says how many outputs there are, and which how many weights; 5 or 1: is there a bias?
_WEIGHTED = {
    "Convolution": ("0", "6", "5"),
    "ConvolutionDepthWise": ("0", "6", "5"),
    "Convolution1D": ("0", "6", "5"),
    "Deconvolution": ("0", "6", "5"),
    "DeconvolutionDepthWise": ("0", "6", "5"),
    "InnerProduct": ("0", "2", "1"),
}
QUANTISED = {"Convolution": "2", "ConvolutionDepthWise": "1", "InnerProduct": "2"}
"""Layers that ncnn computes in int8, and their ``int8_scale_term``."""


@dataclass
class _Layer:
    """One line of a ``.param`` file, with its numbers."""

    operator: str
    head: list[str]
    bottoms: list[str]
    parameters: dict[str, str]
    weight: _Floats | None = None
    bias: _Floats | None = None
    constant: bytes = b""

    @property
    def line(self) -> str:
        return " ".join([*self.head, *(f"{key}={value}" for key, value in self.parameters.items())])

    def rows(self) -> _Floats:
        """The weight with one row a scale: per output channel, per group in a depthwise convolution."""
        assert self.weight is not None
        count = self.parameters["7" if self.operator == "ConvolutionDepthWise" else "0"]
        return self.weight.reshape(int(count), -1)


def quantised_ncnn(
    model: nn.Module, session: NcnnSession, files: list[Path], quantisation: Quantisation
) -> tuple[str, ...]:
    """Rewrite a float32 pair of files in int8, scales from the largest value each layer read in calibration.

    Returns the layers that stay in float32 though nobody asked for it, since ncnn computes them wrongly in int8.
    """
    param, weights = files
    lines = param.read_text(encoding="utf-8").splitlines()
    stack = [_parsed(line) for line in lines[2:] if line.strip()]
    _read_weights(stack, weights.read_bytes())
    in_float = _matched(model, stack, quantisation.keep_fp32)
    wrong = [
        layer for layer in stack if _is_wrong_in_int8(layer) and not any(layer is kept_layer for kept_layer in in_float)
    ]
    in_float += wrong
    chosen = [
        layer
        for layer in stack
        if layer.operator in QUANTISED and not any(layer is kept_layer for kept_layer in in_float)
    ]
    if not chosen:
        raise ExportError(f"{type(model).__name__} has no layer left that ncnn computes in int8")
    scales = _scales(session, quantisation, chosen)
    for layer in chosen:
        layer.parameters["8"] = QUANTISED[layer.operator]
    int8_bytes = {id(layer): _int8(layer, scale) for layer, scale in zip(chosen, scales, strict=True)}
    param.write_text("\n".join([*lines[:2], *(layer.line for layer in stack)]) + "\n", encoding="utf-8")
    weights.write_bytes(b"".join(int8_bytes.get(id(layer)) or _float(layer) for layer in stack))
    return _names(model, wrong)


def _is_wrong_in_int8(layer: _Layer) -> bool:
    """Whether ncnn's int8 kernel computes something else: measured over 136 grouped convolutions, SQNR below 16 dB.

    Groups with a multiple of eight outputs are packed by eight, and the packed kernel mixes groups up; all others
    reached 40 dB or more. Depthwise convolutions have one output a group and a kernel of their own.
    """
    if layer.operator != "ConvolutionDepthWise":
        return False
    return int(layer.parameters["0"]) // int(layer.parameters["7"]) % 8 == 0


def _names(model: nn.Module, chosen: list[_Layer]) -> tuple[str, ...]:
    """Names of these layers in the model; they are grouped convolutions all, so only those are looked at."""
    grouped = [name for name, module in quantised_layers(model).items() if getattr(module, "groups", 1) > 1]
    return tuple(name for name in grouped if any(_matches(quantised_layers(model)[name], layer) for layer in chosen))


def _parsed(line: str) -> _Layer:
    fields = line.split()
    bottoms, tops = int(fields[2]), int(fields[3])
    end = 4 + bottoms + tops
    parameters = dict(word.split("=", 1) for word in fields[end:])
    return _Layer(fields[0], fields[:end], fields[4 : 4 + bottoms], parameters)


def _read_weights(stack: list[_Layer], data: bytes) -> None:
    """Cut the ``.bin`` file up. A layer with weights that is not known here would leave bytes over, or too few."""
    offset = 0

    def floats(count: int) -> _Floats:
        nonlocal offset
        values = np.frombuffer(data, np.float32, count, offset)
        offset += 4 * count
        return values

    try:
        for layer in stack:
            if layer.operator in _WEIGHTED:
                outputs, size, bias = _WEIGHTED[layer.operator]
                if np.frombuffer(data, np.uint32, 1, offset)[0] != RAW:
                    raise ValueError("a weight is not where it should be")
                offset += 4
                layer.weight = floats(int(layer.parameters[size]))
                if layer.parameters.get(bias) == "1":
                    layer.bias = floats(int(layer.parameters[outputs]))
            elif layer.operator == "MemoryData":
                sizes = [int(layer.parameters.get(key, "0")) or 1 for key in ("0", "1", "11", "2")]
                layer.constant = floats(int(np.prod(sizes))).tobytes()
        if offset != len(data):
            raise ValueError(f"{len(data) - offset} bytes are left over")
    except ValueError as error:
        unquantised = sorted({layer.operator for layer in stack} - set(_WEIGHTED))
        raise ExportError(
            f"this ncnn model cannot be quantised: {error}. The weights of some of its layers are not known here: "
            f"{', '.join(unquantised)}. Export it to another format, or in fp32"
        ) from error


def _matched(model: nn.Module, stack: list[_Layer], names: tuple[str, ...]) -> list[_Layer]:
    """The layers of these names. pnnx drops names, and folds norms in: rows of weights are equal but for a factor."""
    modules = quantised_layers(model)
    matched: list[_Layer] = []
    for name in names:
        for layer in stack:
            if not any(layer is matched_layer for matched_layer in matched) and _matches(modules[name], layer):
                matched.append(layer)
                break
        else:
            raise ExportError(f"no layer of the ncnn model has the weights of {name}: it cannot be kept in fp32")
    return matched


def _matches(module: nn.Module, layer: _Layer) -> bool:
    weight = module.weight
    assert isinstance(weight, Tensor), "a layer has a weight"
    if layer.weight is None or layer.weight.size != weight.numel():
        return False
    directions = _directions(weight.detach().cpu().numpy())
    return np.allclose(_directions(layer.weight.reshape(len(directions), -1)), directions, atol=1e-3)


def _directions(weight: NDArray[Any]) -> NDArray[np.float64]:
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.take_along_axis(rows, np.abs(rows).argmax(1, keepdims=True), 1)
    return np.divide(rows, largest, out=np.zeros_like(rows), where=largest != 0)


def _scales(session: NcnnSession, quantisation: Quantisation, chosen: list[_Layer]) -> list[float]:
    """127 over the largest absolute value that each of these layers reads."""
    blobs = list(dict.fromkeys(layer.bottoms[0] for layer in chosen))
    largest = dict.fromkeys(blobs, 0.0)
    for batch in quantisation.batches(1):
        prepared = session.prepare([tensor.detach().cpu().contiguous() for tensor in leaves(in_order(batch))])
        for blob, value in zip(blobs, session.extract(prepared, blobs), strict=True):
            largest[blob] = max(largest[blob], float(np.abs(np.array(value)).max(initial=0.0)))
    return [127 / (largest[layer.bottoms[0]] or 1.0) for layer in chosen]


def _int8(layer: _Layer, bottom_scale: float) -> bytes:
    rows = layer.rows()
    largest = np.abs(rows).max(1)
    scales = np.where(largest > 0, 127 / np.where(largest > 0, largest, 1), 1).astype(np.float32)
    small: bytes = np.clip(np.rint(rows * scales[:, None]), -127, 127).astype(np.int8).tobytes()
    padded = small + b"\0" * (-len(small) % 4)
    bias = b"" if layer.bias is None else layer.bias.tobytes()
    return _tag(INT8) + padded + bias + scales.tobytes() + struct.pack("<f", bottom_scale)


def _float(layer: _Layer) -> bytes:
    if layer.weight is None:
        return layer.constant
    bias = b"" if layer.bias is None else layer.bias.tobytes()
    return _tag(RAW) + layer.weight.tobytes() + bias


def _tag(flag: int) -> bytes:
    return struct.pack("<I", flag)
