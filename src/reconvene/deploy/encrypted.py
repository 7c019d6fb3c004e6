"""Networks on encrypted images: CKKS by TenSEAL, one recorded call after the other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reconvene.costs.encrypted import CkksParameters, Readiness, ckks_parameters, readiness
from reconvene.costs.encrypted_walk import Kind, kind_of, readers_of
from reconvene.deploy.encrypted_packing import PACKINGS, Control, Packing
from reconvene.deploy.encrypted_plain import PlainRun, results_of
from reconvene.deploy.encrypted_value import Affine
from reconvene.deploy.runtimes.base import imported
from reconvene.errors import ArgumentError, ModelError, UnknownNameError
from reconvene.structure import analyse
from reconvene.structure.inputs import map_tensors, tensors_in
from reconvene.structure.recording import Op
from reconvene.utils.module_state import evaluating


@dataclass(frozen=True)
class EncryptedRun:
    """What came out of a run.

    Attributes:
        scores: the decrypted outputs, float64 ``[N, ...]``.
        levels: levels of the modulus that were used up, read off the ciphertexts.
        rotations: rotations of vectors, of one image; ``ciphertexts``: those that were encrypted or came out of layers.
        products: products with constants, and of ciphertexts, for all images together.
        seconds: of the computation alone, without encryption and decryption.
    """

    scores: Tensor
    levels: int
    rotations: int
    ciphertexts: int
    products: int
    seconds: float


class EncryptedNetwork:
    """A network of sums and products that computes on encrypted images.

    Args:
        model: any network that ``reconvene inspect --encrypted`` finds ready; it is computed as in eval mode.
        example_inputs: images ``[N, ...]`` as large as those to come, in any form that the model takes.
        packing: ``batch``: one ciphertext a feature, for up to ``parameters.slots - 1`` images at once, so that time
            follows multiplications; ``vector``: one image a ciphertext, so that time follows the inputs of layers.

    Numbers that are too large wrap around under CKKS. So the network also runs on the plain example inputs, the
    parameters have room for four times their scores, and every run is checked when it is decrypted.

    Raises:
        ModelError: a layer cannot run (it is named), there are too many levels, or numbers of the example inputs are
            too large for any parameters.
        ArgumentError: the example inputs are not one tensor of finite images.
        MissingExtraError: TenSEAL is absent.
        UnknownNameError: no such packing.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, *, packing: str = "batch") -> None:
        if packing not in PACKINGS:
            raise UnknownNameError("packing", packing, PACKINGS)
        images = _images_of(example_inputs, type(model).__name__)
        self._tenseal = imported("tenseal", "encrypted", "encrypted inference")
        with evaluating(model):
            self._structure = analyse(model, map_tensors(lambda tensor: tensor[:1], example_inputs), trial=False)
        self.readiness: Readiness = readiness(self._structure)
        self.readiness.check()
        self._readers = readers_of(self._structure)
        self._packing, self._shape = packing, images.shape[1:]
        outputs = self._structure.eval_outputs()
        if len(outputs) != 1:
            raise ModelError(
                f"an encrypted network gives one tensor, and {type(model).__name__} gives {len(outputs)}. Wrap it in a "
                "module that returns one of them"
            )
        self._output = outputs[0]
        state: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        twins = self._structure.recording.parameters
        self._constants = {id(twin): state[name].detach().double().cpu() for name, twin in twins.items()}
        plain = PlainRun.of(self._structure, self._constants, images)
        self.parameters: CkksParameters = _parameters_of(plain, self.readiness.levels)
        self._control = Control(images[0].flatten(), plain.scores[0].flatten())

    def run(self, images: Tensor) -> EncryptedRun:
        """Encrypt, compute and decrypt images ``[N, ...]``.

        Raises:
            ArgumentError: these are not one tensor of finite images.
            ModelError: images of another shape, or larger than a ciphertext.
            VerificationError: scores cannot be trusted. They are near the end of the range of numbers, or a known
                number beside them is wrong.
        """
        images = _images_of(images, "an encrypted network")
        if images.shape[1:] != self._shape:
            raise ModelError(f"the network takes images {list(self._shape)}, and {list(images.shape[1:])} were given")
        packing = PACKINGS[self._packing](self._tenseal, self.parameters, self._control)
        parts = [self._part(packing, part) for part in packing.parts(images)]
        return EncryptedRun(
            torch.cat([scores for scores, _ in parts]).reshape(len(images), *self._output.shape[1:]),
            packing.used_levels,
            packing.rotations // len(parts),
            packing.ciphertexts // len(parts),
            packing.products,
            sum(seconds for _, seconds in parts),
        )

    def _part(self, packing: Packing, images: Tensor) -> tuple[Tensor, float]:
        recording = self._structure.recording
        values: dict[int, Any] = {key: tensor.clone() for key, tensor in self._constants.items()}
        flat = images.flatten(1)
        values[id(recording.inputs[0])] = Affine.of_source(packing.encrypt(flat), flat.shape[1], self._shape)
        start = time.perf_counter()
        for op in self._structure.eval_ops():
            outputs = self._call(packing, op, values)
            for tensor, value in zip(op.outs, outputs, strict=False):
                if tensor is not None:
                    values[id(tensor)] = value
        result = values[id(self._output)].evaluated(packing)
        seconds = time.perf_counter() - start
        return packing.decrypt(result, len(images)), seconds

    def _call(self, packing: Packing, op: Op, values: dict[int, Any]) -> list[Any]:
        operands = [tensor for tensor in tensors_in(op.args) if isinstance(values.get(id(tensor)), Affine)]
        constants = map_tensors(lambda tensor: values.get(id(tensor), tensor), op.args)
        if not operands:
            return results_of(op, constants)
        for tensor in operands:
            if self._readers[id(tensor)] > 1 and values[id(tensor)].has_layer:
                values[id(tensor)].evaluated(packing)
        first: Affine = values[id(operands[0])]
        match kind_of(op, operands):
            case Kind.PRODUCT:
                return [first.times(values[id(operands[-1])], packing)]
            case Kind.POWER:
                return [first.power(int(op.args[1]), packing)]
            case Kind.SCALE:
                return [first.scaled(op, constants)]
            case Kind.LAYER if first.has_layer:
                first.evaluated(packing)
        result = Affine.mapped(op, constants, is_layer=kind_of(op, operands) is Kind.LAYER)
        return [result, *[None] * (len(op.outs) - 1)]


def _images_of(inputs: Any, reader: str) -> Tensor:
    """The one tensor of images ``[N, ...]`` in the inputs of ``reader``, as float64. Else raises ArgumentError."""
    tensors = tensors_in(inputs)
    if len(tensors) != 1:
        raise ArgumentError(
            f"an encrypted network takes one tensor of images, and the inputs of {reader} ({type(inputs).__name__}) "
            f"hold {len(tensors)}. Wrap the model in a module that takes one and makes the others itself"
        )
    images = tensors[0]
    if images.ndim < 2 or not images.numel():
        raise ArgumentError(f"images are a tensor [N, ...] of one image or more, and {list(images.shape)} was given")
    if images.is_complex() or not bool(images.isfinite().all()):
        raise ArgumentError(
            "images to encrypt are real and finite, and these hold nan, infinite or complex numbers. Look at the data"
        )
    return images.detach().double().cpu()


def _parameters_of(plain: PlainRun, levels: int) -> CkksParameters:
    """Parameters with room for the numbers of a plain run. Raises ModelError that names the call with larger ones."""
    try:
        parameters = ckks_parameters(levels, float(plain.scores.abs().max()))
    except ModelError as error:
        raise ModelError(f"{plain.output}: {error}") from None
    plain.require_room(parameters)
    return parameters
