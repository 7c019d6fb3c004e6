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


def tiny_bundle(folder: Path) -> dict[str, Any]:
    """Files as those of a bundle, of which nothing is run."""
    model = {"file": "m.onnx", "files": ["m.onnx"], "runtime": "onnxruntime", "package": "onnxruntime"}
    model |= {"expected": "test/m.npy", "precision": "fp32", "keep_fp32": [], "tolerance": 1e-4, "bytes": 5}
    about = {
        **{"format": "reconvene-bundle", "format_version": 1, "reconvene": "1", "model": "resnet20"},
        "models": [{**model, "verified": {"max_rel_error": 1e-6, "data": "noise"}}],
        "input": {"shape": [1, 8, 8], "mean": [0.5], "std": [0.25]},
        **{"labels": ["a", "b"], "test": {"images": "test/images.npy", "from": "noise"}, "results": {"epochs": "1"}},
        "sizes": {"m.onnx": 5, "test/m.npy": 3, "test/images.npy": 4},
    }
    (folder / "test").mkdir(parents=True)
    for name, content in (("m.onnx", b"model"), ("test/m.npy", b"npy"), ("test/images.npy", b"npys")):
        (folder / name).write_bytes(content)
    return about


def sign_bundle(folder: Path, about: bytes, names: dict[str, str] | None = None) -> None:
    (folder / "bundle.json").write_bytes(about)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS"]
    sums = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    lines = [f"{digest}  {name}\n" for name, digest in {**sums, **(names or {})}.items()]
    (folder / "SHA256SUMS").write_text("".join(lines))
