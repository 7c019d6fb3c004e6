"""Formats of files that tests export to."""

from __future__ import annotations

import pytest

from reconvene.deploy.runtimes.registry import FORMATS


def require_format(name: str) -> None:
    """Skip the test where the extra of this format is not installed."""
    if not FORMATS[name].installed:
        pytest.skip(f"the {FORMATS[name].extra} extra is not installed")
