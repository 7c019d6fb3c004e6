"""Non-linear operations: which there are in a network, what can stand in their place, and how it is put there."""

from reconvene.surgery.operations.forms import OperationForm, Replacement, forms, operations
from reconvene.surgery.operations.sites import OperationSite, find_sites
from reconvene.surgery.operations.substitute import (
    Blend,
    blend_penalty,
    blended,
    blends,
    describe_blends,
    move_blends,
    substitute,
    unblended,
)

__all__ = [
    "Blend",
    "OperationForm",
    "OperationSite",
    "Replacement",
    "blend_penalty",
    "blended",
    "blends",
    "describe_blends",
    "find_sites",
    "forms",
    "move_blends",
    "operations",
    "substitute",
    "unblended",
]
