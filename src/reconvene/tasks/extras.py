"""Packages of the ``segmentation`` extra."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from reconvene.errors import MissingExtraError


def import_extra(module: str, package: str, purpose: str) -> Any:
    """Import an optional module. Raises MissingExtraError where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, "segmentation", purpose) from error
