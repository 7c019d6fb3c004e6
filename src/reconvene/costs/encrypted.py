"""Inference on encrypted data under CKKS: which calls cannot run, and what the others take.

CKKS adds and multiplies vectors of encrypted numbers. Every product takes a level of a modulus whose length security
bounds: a layer with constant weights takes one, a polynomial of degree d ``ceil(log2 d)``, since its coefficients
become part of the layer behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, log2
from typing import TYPE_CHECKING, Any

from reconvene.costs.base import Cost, CostFunction, SumOfProducts
from reconvene.costs.unit import COUNT
from reconvene.errors import ModelError
from reconvene.utils.tables import text_table

if TYPE_CHECKING:
    from reconvene.costs.base import Network, Term
    from reconvene.costs.encrypted_walk import Blocked, EncryptedWalk
    from reconvene.structure import Structure

SECURE_BITS = {4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Longest modulus in bits by the dimension of the ring, for 128 bits of security (homomorphicencryption.org, 2018)."""
_NAMED = 3
_MOST_SCALE, _LEAST_SCALE, _MOST_PRIME = 40, 30, 60
"""Bits: a scale of fewer than 30 leaves less than four digits, and SEAL has no primes of more than 60."""
_LEAST_INTEGER = 10
"""Bits of the integer part of scores and their sign: +-512."""
HEADROOM = 4
"""How much larger than the scores of the example inputs a number may be before it wraps around."""


@dataclass(frozen=True)
class CkksParameters:
    """Parameters of 128 bits of security: ``ring`` dimension, and the bits of scale and of both ends of the modulus."""

    ring: int
    scale_bits: int
    end_bits: int
    levels: int

    @property
    def slots(self) -> int:
        """Numbers in one ciphertext."""
        return self.ring // 2

    @property
    def modulus_bits(self) -> list[int]:
        """Bits of every prime of the modulus."""
        return [self.end_bits, *[self.scale_bits] * self.levels, self.end_bits]

    @property
    def largest(self) -> float:
        """Numbers beyond plus and minus this wrap around when no level is left, as in the scores."""
        return 2.0 ** (self.end_bits - self.scale_bits - 1)

    @property
    def largest_inside(self) -> float:
        """The same where one level is left: the least room of a number that is computed with."""
        return 2.0 ** (self.end_bits - 1)

    def __str__(self) -> str:
        return f"ring {self.ring}, a modulus of {sum(self.modulus_bits)} bits, of at most {SECURE_BITS[self.ring]}"


@dataclass(frozen=True)
class Readiness:
    """What a network takes under CKKS, and what of it cannot run.

    Where calls are ``blocked``, ``levels`` and ``depth`` count what replaces them, polynomials as those of degree 2.

    Attributes:
        levels: levels of the modulus on the longest path.
        depth: products of two encrypted numbers on the longest path; the other levels are layers with constant weights.
        rotations: of one image a vector.
        ciphertexts: of one ciphertext a feature.
    """

    blocked: tuple[Blocked, ...]
    levels: int
    depth: int
    rotations: int
    ciphertexts: int

    def check(self) -> None:
        """Raise ModelError that names every layer which cannot run, or says that there are too many levels."""
        if self.blocked:
            more = len(self.blocked) - _NAMED
            others = f"; and {more} more calls (reconvene inspect --encrypted)" if more > 0 else ""
            raise ModelError("; ".join(map(str, self.blocked[:_NAMED])) + others)
        ckks_parameters(self.levels)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [[entry.layer or "the model itself", entry.operator, entry.instead] for entry in self.blocked]
        title = "cannot run on encrypted numbers" if rows else "every call runs on encrypted numbers (CKKS)"
        condition = " with these replaced, activations by polynomials of degree 2" if rows else ""
        try:
            fits = f"128 bits of security: {ckks_parameters(self.levels)}"
        except ModelError as error:
            fits = str(error)
        foot = [
            f"levels {self.levels}{condition}; depth {self.depth}",
            f"rotations {self.rotations:,} of one image a vector; ciphertexts {self.ciphertexts:,} of one a feature",
            fits,
        ]
        if not rows:
            return "\n".join([title, *foot])
        return text_table(["layer", "call", "instead"], rows, title=title, foot=foot)


def ckks_parameters(levels: int, scores: float = 0.0) -> CkksParameters:
    """The smallest ring whose secure modulus has so many levels, with the longest scale up to 40 bits.

    Numbers wrap around, without an error, where they are larger than the first prime of the modulus over twice the
    scale. So it is long enough for four times the largest absolute value of ``scores``, and for 512.

    Raises ModelError where no ring has.

    >>> ckks_parameters(3).modulus_bits
    [50, 39, 39, 39, 50]
    >>> ckks_parameters(3, scores=4000.0).largest
    32768.0
    """
    integer = max(_LEAST_INTEGER, 1 + ceil(log2(HEADROOM * scores)) if scores else 0)
    for ring, bits in SECURE_BITS.items():
        scale = min(_MOST_SCALE, _MOST_PRIME - integer, (bits - 2 * integer) // (levels + 2))
        if scale >= _LEAST_SCALE:  # what is left over makes both ends longer
            return CkksParameters(ring, scale, min(_MOST_PRIME, (bits - levels * scale) // 2), levels)
    if integer > _LEAST_INTEGER:
        ckks_parameters(levels)  # it may be the levels, not the scores
        raise ModelError(
            f"scores reach {scores:,.4g} on the example inputs. CKKS with {levels} levels has no room: numbers "
            "as large wrap around. Scale the last layer down, or normalise the images"
        )
    raise ModelError(
        f"{levels} levels are more than 128 bits of security allow without bootstrapping. Use fewer layers, or "
        "polynomials of a lower degree"
    )


def readiness(structure: Structure) -> Readiness:
    """Count what the network of a structure takes under CKKS, dense."""
    walk, widths = _walk(structure), structure.widths
    rotations, ciphertexts = (int(cost.sum_of(structure).at(widths)) for cost in (Rotations(), Ciphertexts()))
    return Readiness(tuple(walk.blocked), walk.levels, walk.depth, rotations, ciphertexts)


def _walk(structure: Structure) -> EncryptedWalk:
    from reconvene.costs.encrypted_walk import EncryptedWalk  # imports torch, which a list of costs does without

    return EncryptedWalk(structure)


class _EncryptedCost(Cost):
    """A cost under CKKS: it says which layer cannot run before it says a number."""

    unit, less, listed = COUNT, "fewer", False
    condition = "under CKKS at 128 bits of security"


class _PathLength(_EncryptedCost):
    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The same at any widths. Raises ModelError for a network that cannot run."""
        ready = readiness(structure)
        ready.check()
        length = float(getattr(ready, self.name))
        return CostFunction(lambda widths: length)


class ModulusLevels(_PathLength):
    """Levels of the modulus: products on the longest path, with constants and with each other."""

    name, label, plural = "levels", "Levels", "levels of the modulus"
    meaning = "Levels that encrypted inference (CKKS) takes; widths do not change them: 5."


class MultiplicativeDepth(_PathLength):
    """Products of encrypted numbers with each other on the longest path: those of polynomials and of gates."""

    name, label, plural = "depth", "Multiplicative depth", "products of encrypted numbers in sequence"
    meaning = "Products of encrypted numbers with each other in sequence (CKKS); widths do not change them: 2."


class _SumOfWidths(_EncryptedCost, SumOfProducts):
    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """The sum at any widths. Raises ModelError for a network that cannot run."""
        readiness(structure).check()
        return self.sum_of(structure)

    def sum_of(self, structure: Structure) -> CostFunction:
        """The sum at any widths, whether the network can run or not."""
        return SumOfProducts.bind(self, structure, None)


class Rotations(_SumOfWidths):
    """Rotations of one image a vector: one an input of every layer, and one for its bias.

    A vector is multiplied with a matrix along its diagonals, one rotation each.
    """

    name, label, plural = "rotations", "Rotations", "rotations of encrypted vectors"
    meaning = "Rotations of encrypted inference (CKKS) with one image a vector, one an input of a layer: 2x, 80."
    condition = "under CKKS, one image a vector"

    def terms(self, structure: Structure) -> Sequence[Term]:
        """The inputs of every layer."""
        evaluated = _walk(structure).evaluated
        return [(structure.context.dims(source)[1:], 1) for sources, _ in evaluated for source in sources]

    def fixed(self, structure: Structure) -> int:
        """The constant input of every layer, which its bias multiplies."""
        return sum(len(sources) for sources, _ in _walk(structure).evaluated)


class Ciphertexts(_SumOfWidths):
    """Ciphertexts of one a feature: the features of the input and of what every layer gives.

    Each holds this feature of as many images as there are slots.
    """

    name, label, plural = "ciphertexts", "Ciphertexts", "ciphertexts"
    meaning = "Ciphertexts of encrypted inference (CKKS) with one a feature, for thousands of images at once: 2x, 90."
    condition = "under CKKS, one ciphertext a feature"

    def terms(self, structure: Structure) -> Sequence[Term]:
        """Features of the inputs, and of the output of every layer."""
        tensors = [*structure.recording.inputs, *(tensor for _, tensor in _walk(structure).evaluated)]
        return [(structure.context.dims(tensor)[1:], 1) for tensor in tensors]


ENCRYPTED_COSTS: tuple[Cost, ...] = (MultiplicativeDepth(), Rotations(), Ciphertexts(), ModulusLevels())
