"""How numbers lie in ciphertexts: one ciphertext a feature of many images, or one image a ciphertext."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from reconvene.costs.encrypted import CkksParameters
from reconvene.errors import ModelError, VerificationError

Part = tuple[Any, Tensor | None, int]
"""A source, the matrix ``[inputs, outputs]`` that it is multiplied with (``None``: none), and its inputs."""
_LEAST_ERROR, _ERROR_SHARE = 0.01, 1e-3
"""A control may be wrong by this much, or by this share of the largest score; a number that wraps around adds more."""


@dataclass(frozen=True)
class Control:
    """An image whose scores are known: float64 ``[features]`` and ``[scores]``. It tells a wrong run from a right one.

    A number that wraps around in one slot changes all slots of its ciphertext.
    """

    image: Tensor
    scores: Tensor


class Packing(Protocol):
    """Encrypts, combines and multiplies sources, and counts what that took."""

    used_levels: int
    rotations: int
    ciphertexts: int
    products: int

    def parts(self, images: Tensor) -> Sequence[Tensor]:
        """Images that are computed together."""

    def encrypt(self, images: Tensor) -> Any:
        """A source of images, float64 ``[N, features]``."""

    def combine(self, parts: Sequence[Part], bias: Tensor) -> Any:
        """The sum of all parts times their matrices, and the bias."""

    def multiply(self, left: Any, right: Any) -> Any:
        """The products of the numbers of two sources, one by one."""

    def decrypt(self, source: Any, count: int) -> Tensor:
        """The numbers of ``count`` images, float64 ``[count, features]``.

        Raises VerificationError where they cannot be trusted.
        """


class _Counted:
    def __init__(self, tenseal: Any, parameters: CkksParameters, control: Control) -> None:
        self.used_levels = self.rotations = self.ciphertexts = self.products = 0
        self._tenseal, self._parameters, self._control = tenseal, parameters, control
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, parameters.ring, coeff_mod_bit_sizes=parameters.modulus_bits
        )
        self._context.global_scale = 2**parameters.scale_bits

    def _encrypted(self, numbers: Tensor) -> Any:
        self.ciphertexts += 1
        return self._tenseal.ckks_vector(self._context, numbers.tolist())

    def _noted(self, vector: Any) -> Any:
        """The same vector; how many levels it has used up is read off its primes."""
        primes = vector.ciphertext()[0].coeff_modulus_size()
        self.used_levels = max(self.used_levels, self._parameters.levels + 1 - primes)
        return vector

    def _checked(self, scores: Tensor, control_error: float) -> Tensor:
        """The same scores. Raises VerificationError near the range of numbers, or for a control that is wrong."""
        largest, limit = float(scores.abs().max()), self._parameters.largest / 2
        advice = "Give example inputs with scores as large, scale the last layer down, or normalise the images"
        if largest > limit:
            raise VerificationError(
                f"decrypted scores reach {largest:,.4g}, and beyond {limit:,.0f} they cannot be trusted: numbers over "
                f"{2 * limit:,.0f} wrap around. {advice}"
            )
        if control_error > max(_LEAST_ERROR, _ERROR_SHARE * largest):
            raise VerificationError(
                f"the scores of an encrypted run cannot be trusted: a known number that was computed beside them is "
                f"wrong by {control_error:,.4g}. A number wrapped around (scores have room for {2 * limit:,.0f}), or "
                f"weights are too small for a scale of {self._parameters.scale_bits} bits. {advice}"
            )
        return scores


class BatchPacking(_Counted):
    """One ciphertext for each feature of as many images as there are slots: a source is a list of vectors.

    The last image of every ciphertext is the control.
    """

    def parts(self, images: Tensor) -> Sequence[Tensor]:
        """See Packing."""
        return torch.split(images, self._parameters.slots - 1)

    def encrypt(self, images: Tensor) -> list[Any]:
        """See Packing."""
        return [self._encrypted(feature) for feature in torch.cat([images, self._control.image[None]]).T]

    def combine(self, parts: Sequence[Part], bias: Tensor) -> list[Any]:
        """See Packing. Each number of a matrix is one product; those that are nothing at this scale are left out."""
        self.ciphertexts += len(bias)
        columns = [(source, _matrix(matrix, size)) for source, matrix, size in parts]
        return [self._sum(columns, number, float(shift)) for number, shift in enumerate(bias)]

    def multiply(self, left: list[Any], right: list[Any]) -> list[Any]:
        """See Packing."""
        self.products += len(left)
        pairs = zip(left, right, strict=True)
        return [self._noted(x.square() if x is y else x * y) for x, y in pairs]

    def decrypt(self, source: list[Any], count: int) -> Tensor:
        """See Packing."""
        numbers = torch.tensor([vector.decrypt()[: count + 1] for vector in source], dtype=torch.float64).T
        return self._checked(numbers[:count], float((numbers[count] - self._control.scores).abs().max()))

    def _sum(self, columns: Sequence[tuple[list[Any], Tensor]], number: int, shift: float) -> Any:
        # A factor that is rounded to zero has no ciphertext: SEAL refuses to add what comes out of it.
        least = 2.0 ** (2 - self._parameters.scale_bits)
        terms = [
            (source[row], float(matrix[row, number]))
            for source, matrix in columns
            for row in (matrix[:, number].abs() >= least).nonzero().flatten().tolist()
        ]
        terms = terms or [(columns[0][0][0], least)]
        self.products += len(terms)
        total = terms[0][0] * terms[0][1]
        for vector, factor in terms[1:]:
            total += vector * factor
        return self._noted(total + shift)


class VectorPacking(_Counted):
    """One image a ciphertext, with a one behind its features: a source is a vector of features and one.

    TenSEAL repeats a vector over all slots, and multiplies it with a matrix by turning it. What is added to it later
    is not repeated: a bias that is added between two matrices makes the second product wrong, without a word. So the
    bias is a row of the matrix, which the one multiplies. The one is the control, too: it comes out as a one.
    """

    def __init__(self, tenseal: Any, parameters: CkksParameters, control: Control) -> None:
        super().__init__(tenseal, parameters, control)
        self._context.generate_galois_keys()

    def parts(self, images: Tensor) -> Sequence[Tensor]:
        """See Packing."""
        return torch.split(images, 1)

    def encrypt(self, images: Tensor) -> Any:
        """See Packing. Raises ModelError for an image that is larger than a ciphertext."""
        self._require_room(images.shape[1])
        return self._encrypted(torch.cat([images[0], torch.ones(1, dtype=images.dtype)]))

    def combine(self, parts: Sequence[Part], bias: Tensor) -> Any:
        """See Packing. One rotation an input and one for the bias. Raises ModelError as ``encrypt`` does."""
        self._require_room(len(bias))
        total = None
        for number, (source, matrix, size) in enumerate(parts):
            weights = torch.zeros(size + 1, len(bias) + 1, dtype=torch.float64)
            weights[:size, :-1] = _matrix(matrix, size)
            if number == 0:
                weights[size, :-1], weights[size, -1] = bias, 1.0
            self.rotations += size + 1
            self.products += weights.numel()
            term = source.mm(weights.tolist())
            total = term if total is None else total + term
        self.ciphertexts += 1
        return self._noted(total)

    def _require_room(self, features: int) -> None:
        """Raise ModelError where features and the one behind them do not fit: their products would be wrong."""
        if features + 1 >= self._parameters.slots:
            raise ModelError(f"{features} features do not fit into {self._parameters.slots} slots: use packing='batch'")

    def multiply(self, left: Any, right: Any) -> Any:
        """See Packing. The one stays a one."""
        self.products += 1
        return self._noted(left.square() if left is right else left * right)

    def decrypt(self, source: Any, count: int) -> Tensor:
        """See Packing."""
        numbers = torch.tensor([source.decrypt()], dtype=torch.float64)
        return self._checked(numbers[:, :-1], abs(float(numbers[0, -1]) - 1))


def _matrix(matrix: Tensor | None, size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64) if matrix is None else matrix


PACKINGS: dict[str, type[BatchPacking | VectorPacking]] = {"batch": BatchPacking, "vector": VectorPacking}
