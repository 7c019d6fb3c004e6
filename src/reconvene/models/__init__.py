"""Reference networks for 32x32 images, and how a model is addressed on the command line and in an artifact."""

from reconvene.models.address import Source, example_inputs, parse_arguments, resolve
from reconvene.models.registry import MODELS

__all__ = ["MODELS", "Source", "example_inputs", "parse_arguments", "resolve"]
