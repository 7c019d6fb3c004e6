"""Reference networks for 32x32 images, and how a model is addressed on the command line and in an artifact."""

from reconvene.models.address import ModelSource, example_inputs, parse_arguments, resolve_address
from reconvene.models.registry import MODELS

__all__ = ["MODELS", "ModelSource", "example_inputs", "parse_arguments", "resolve_address"]
