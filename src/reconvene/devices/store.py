"""Where profiles live: those given a name, and what this machine has measured of itself so far."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reconvene.devices import facts, probe
from reconvene.devices.profile import Profile
from reconvene.devices.runtime_layers import key_of
from reconvene.devices.sessions import Network
from reconvene.errors import DeviceError, MissingExtraError, UnknownNameError
from reconvene.utils.files import unwritable

Say = Callable[[str], None]
HERE = "here"
"""The device that stands for this machine, measured as needed."""


def silent(line: str) -> None:
    """Tell nobody."""


def named_folder() -> Path:
    """Profiles that ``reconvene device profile NAME`` keeps for ``--device NAME``."""
    return _home("XDG_DATA_HOME", ".local/share") / "devices"


def cache_folder() -> Path:
    """What this machine has measured of itself: safe to delete, it is measured again when needed."""
    return _home("XDG_CACHE_HOME", ".cache") / "devices"


def _home(variable: str, default: str) -> Path:
    given = os.environ.get(variable, "")
    return (Path(given) if given else Path.home() / default) / "reconvene"


def find(device: str | Path) -> Profile:
    """The profile of a file, or of a name in ``named_folder``. Raises DeviceError, UnknownNameError."""
    path = Path(device)
    if path.suffix == ".json" or path.is_file():
        found = Profile.load(path)
        return found if found.name else Profile.from_dict({**found.to_dict(), "name": path.stem})
    known = {file.stem: file for file in sorted(named_folder().glob("*.json"))}
    if str(device) not in known:
        raise UnknownNameError("device", str(device), known or ["none yet: reconvene device profile --name NAME"])
    return Profile.load(known[str(device)])


def measure(
    jobs: Sequence[Mapping[str, Any]],
    *,
    threads: int = 1,
    precision: str = "fp32",
    far: int = 64 << 20,
    networks: Sequence[Network] = (),
    name: str = "",
    say: Say = silent,
) -> Profile:
    """Measure layers, and whole networks of them (``yardsticks``), on this machine now.

    Raises MissingExtraError, DeviceError.
    """
    options: dict[str, Any] = {"threads": threads, "precision": precision, "far": far, "networks": networks}
    return Profile.from_dict({**_probed(jobs, **options, say=say), "name": name})


def here(
    jobs: Sequence[Mapping[str, Any]],
    *,
    threads: int = 1,
    precision: str = "fp32",
    far: int = 64 << 20,
    say: Say = silent,
) -> Profile:
    """The profile of this machine for these layers: what is in the cache, and what is not measured now and added.

    Raises MissingExtraError, DeviceError.
    """
    far = 1 << max(21, (far - 1).bit_length())  # one file for all models of about a size
    path = _cache_path(threads, precision, far)
    known = _cached(path)
    held = {key_of(layer): layer for layer in known.layers} if known else {}
    missing = [job for job in jobs if not _covers(held.get(key_of(job)), job)]
    if known is not None and not missing:
        return known
    lost = unwritable(path)
    kept = f"kept in {path}" if not lost else f"and again the next time, since nothing can be kept in {path}: {lost}"
    say(f"measuring {len(missing)} layers on this machine, {kept}")
    made = _probed(missing, threads=threads, precision=precision, far=far, say=silent, known=known)
    layers = {**held, **{key_of(layer): layer for layer in made["layers"]}}
    whole = [*(known.whole if known else []), *made["whole"]]
    profile = Profile.from_dict({**made, "layers": list(layers.values()), "whole": whole, "name": "this machine"})
    if not lost:
        save(profile, path)
    return profile


def conditions(threads: int = 1, precision: str = "fp32") -> dict[str, Any]:
    """What is measured on here. Raises MissingExtraError."""
    try:
        return facts.conditions(threads, precision)
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "measuring a device") from error


def save(profile: Profile, path: Path) -> None:
    """Write a profile, whole or not at all. Raises DeviceError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not as in disk.py: several processes may measure this machine at once, each needs a name of its own.
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(profile.to_json(), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise DeviceError(f"the device profile {path} cannot be written: {error.strerror or error}") from error


def profiles() -> tuple[list[tuple[Path, Profile]], list[str]]:
    """Every profile of the two folders that can be read, and what is wrong with the others."""
    found, wrong = [], []
    for file in [*sorted(named_folder().glob("*.json")), *sorted(cache_folder().glob("*.json"))]:
        try:
            found.append((file, Profile.load(file)))
        except DeviceError as error:
            wrong.append(str(error))
    return found, wrong


def _probed(
    jobs: Sequence[Mapping[str, Any]],
    *,
    threads: int,
    precision: str,
    far: int,
    networks: Sequence[Network] = (),
    say: Say,
    known: Profile | None = None,
) -> dict[str, Any]:
    conditions(threads, precision)
    basis = None
    if known is not None:
        basis = {"steps": known.steps, "memory": known.memory, "overhead": known.overhead, "pace": known.pace}
    try:
        return probe.profile(
            jobs, threads=threads, precision=precision, far=far, networks=networks, say=say, known=basis
        )
    except _runtime_errors() as error:
        raise DeviceError(f"ONNX Runtime does not run a layer that was to be measured: {error}") from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own family has no common base but Exception."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, ValueError)


def _cache_path(threads: int, precision: str, far: int) -> Path:
    told = json.dumps([probe.VERSION, conditions(threads, precision)["device"], threads, far], sort_keys=True)
    version = conditions(threads, precision)["runtime"]["version"]
    return cache_folder() / f"{precision}-{version}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.json"


def _cached(path: Path) -> Profile | None:
    """What the cache holds, ``None`` where there is nothing that this version can read: it is measured again."""
    try:
        return Profile.load(path) if path.is_file() else None
    except DeviceError:
        return None


def _covers(layer: Mapping[str, Any] | None, job: Mapping[str, Any]) -> bool:
    return layer is not None and layer["in"] >= job["in"] and layer["out"] >= job["out"]
