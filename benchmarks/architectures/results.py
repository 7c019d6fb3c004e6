"""The results of the sweep: one JSON line a model, resumable, and what is expected of each."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).with_name("expected.json")
"""What is known not to be fully proved: ``{name: kind of verdict}``. Everything else must be ``proved``."""
ORDER = ["proved", "proved, little removable", "not lossless by nature", "failed"]


class Results:
    """Lines of a file by model; a line is written as soon as its model is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.records[record["name"]] = record

    def has(self, name: str, *, engine: str) -> bool:
        """Whether this engine has judged the model already."""
        return self.records.get(name, {}).get("engine") == engine

    def add(self, record: dict[str, Any]) -> None:
        """Append one line."""
        self.records[record["name"]] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def compact(self, order: list[str]) -> None:
        """Write every model once, in this order; models that no longer exist leave."""
        lines = [json.dumps(self.records[name], ensure_ascii=False) for name in order if name in self.records]
        self.path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def facts(root: Path) -> dict[str, Any]:
    """What every line says about where it comes from: commit, engine, versions, machine."""
    return {
        "commit": commit(root),
        "engine": engine(root),
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "transformers")},
        "machine": machine(),
    }


def commit(root: Path) -> str:
    """The short commit of the checkout, with a plus where the engine was changed after it."""
    call = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*call, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*call, "status", "--porcelain", "src"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "no checkout"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def engine(root: Path) -> str:
    """A digest of the sources of structure and surgery: a result holds as long as these stay the same."""
    digest = hashlib.sha256()
    for room in ("structure", "surgery"):
        for path in sorted((root / "src" / "reconvene" / room).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def version(package: str) -> str | None:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> str:
    """The processor in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        cores = sum(line.startswith("processor") for line in lines)
        return f"{model or platform.machine()}, {cores} cores"
    except OSError:
        return platform.processor() or platform.machine()


def expected() -> dict[str, str]:
    """Kind of verdict by name for the models that are not expected to be proved."""
    return dict(json.loads(EXPECTED.read_text(encoding="utf-8"))) if EXPECTED.exists() else {}


def accept(records: Iterable[Mapping[str, Any]]) -> None:
    """Write down the models that are not proved as what is expected from now on."""
    wanted = {record["name"]: kind(record) for record in records if kind(record) != "proved"}
    EXPECTED.write_text(json.dumps(dict(sorted(wanted.items())), indent=1) + "\n", encoding="utf-8")


def kind(record: Mapping[str, Any]) -> str:
    """The verdict without its reason."""
    return str(record["verdict"]).partition(" (")[0]


def worse(record: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether a model does worse than expected of it."""
    return ORDER.index(kind(record)) > ORDER.index(wanted.get(record["name"], "proved"))
