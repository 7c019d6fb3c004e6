"""The results of the sweep: one JSON line a network, resumable, and what is expected of each."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).with_name("expected.json")
"""What is known not to pass every stage: ``{name: state}``. Everything else must have ``passed``."""
STAGES = ("plan", "apply", "compare", "rectify", "train", "save", "load", "export")
"""What a user does with a network, in this order."""
STATES = ("passed", "refused", "failed", "WRONG")
"""Of a stage, best first. Refused: a named error of Reconvene. Failed: any other error. WRONG: a silent difference."""
ROOMS = (
    "structure", "criteria", "evaluator", "allocation", "surgery", "rectifier", "planning",
    "artifact", "deploy", "costs", "utils", "quantiser",
)  # fmt: skip
"""The sources that decide a result."""


@dataclass(frozen=True)
class Options:
    """What the sweep does with every network."""

    stages: tuple[str, ...] = STAGES
    value_checks: bool = False
    """Whether the network looks at values: a check of its inputs, and one of a module in its middle."""


class Results:
    """Lines of a file by model; a line is written as soon as its model is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                if "stages" in record or "error" in record:  # the sweep once wrote lines of another form
                    self.records[record["name"]] = record

    def has(self, name: str, *, engine: str, stages: Iterable[str] = STAGES) -> bool:
        """Whether this engine has taken the network through these stages already."""
        record = self.records.get(name, {})
        return record.get("engine") == engine and set(stages) <= set(record.get("asked", ()))

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
    """A digest of the sources on the road from a network to its file: a result holds as long as these stay the same."""
    digest = hashlib.sha256()
    for room in ROOMS:
        source = root / "src" / "reconvene" / room
        for path in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
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
    """The state by name of the networks that are not expected to pass."""
    return dict(json.loads(EXPECTED.read_text(encoding="utf-8"))) if EXPECTED.exists() else {}


def accept(records: Iterable[Mapping[str, Any]]) -> None:
    """Write down the networks that do not pass as what is expected from now on."""
    wanted = {record["name"]: kind(record) for record in records if kind(record) != "passed"}
    EXPECTED.write_text(json.dumps(dict(sorted(wanted.items())), indent=1) + "\n", encoding="utf-8")


def kind(record: Mapping[str, Any]) -> str:
    """The verdict without its reason."""
    return str(record["verdict"]).partition(" (")[0]


def worse(record: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether a network does worse than expected of it."""
    return STATES.index(kind(record)) > STATES.index(wanted.get(record["name"], "passed"))
