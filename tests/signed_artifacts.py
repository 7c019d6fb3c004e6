"""Artifacts changed on purpose and signed again, as a program of somebody else might: every checksum fits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST, PLAN = "reconvene.json", "plan.json"


def canonical(data: Any) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def describe(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def put_manifest(folder: Path, data: Any) -> None:
    if isinstance(data, dict):
        unsigned = {key: value for key, value in data.items() if key != "checksum"}
        data = {**unsigned, "checksum": hashlib.sha256(canonical(unsigned)).hexdigest()}
    (folder / MANIFEST).write_bytes(canonical(data))


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    put_manifest(folder, data)


def put_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and say so in the manifest."""
    (folder / name).write_bytes(content)
    change_manifest(folder, lambda data: data["files"].update({name: describe(content)}))
