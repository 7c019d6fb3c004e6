"""What somebody may have meant by an address that names no model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from reconvene.errors import UnknownNameError

_FORMS = (
    *("torchvision:NAME", "timm:NAME", "transformers:CONFIG", "smp:NAME", "monai:NAME"),
    *("package.module:callable", "folder/file.py:callable"),
)
_CATALOGUES = {"torchvision": "torchvision.models", "timm": "timm"}
_NEAREST = 3


def unknown_model(name: str, models: Iterable[str]) -> UnknownNameError:
    """The error for a name that is none of ours: the nearest names of ours and of packages, and files of that name.

    A further package is only looked at where no name before is near: the list of timm takes seconds to import.
    """
    addresses = {model: [model] for model in models}
    nearest: list[str] = []
    for family, module in _CATALOGUES.items():
        for model in _listed(module):
            addresses.setdefault(model, []).append(f"{family}:{model}")
        if nearest := [address for match in _matches(name, addresses) for address in addresses[match]][:_NEAREST]:
            break
    stem = name.removesuffix(".py")
    if (Path(f"{stem}.py")).is_file():
        nearest.insert(0, f"{stem}.py:FUNCTION")
    return UnknownNameError("model", name, [*models, *_FORMS], nearest=nearest)


def _matches(name: str, names: Iterable[str]) -> list[str]:
    lowered = name.lower().replace("-", "_")
    return difflib.get_close_matches(lowered, list(names), n=_NEAREST, cutoff=0.75)


def _listed(module: str) -> list[str]:
    """Names of a package's models; none where it is not installed, which is no trouble here."""
    try:
        return list(import_module(module).list_models())
    except ImportError:
        return []
