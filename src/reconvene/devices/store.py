"""Where profiles live: those given a name, and what this machine has measured of itself so far."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reconvene.devices.on_device import facts, probe
from reconvene.devices.on_device.layer_spec import LayerJob, MeasuredLayer
from reconvene.devices.on_device.sessions import NetworkSpec
from reconvene.devices.profile import Profile
from reconvene.errors import DeviceError, MissingExtraError, suggestion
from reconvene.utils.files import unwritable
from reconvene.utils.progress import note, stage

HERE = "here"
"""The device that stands for this machine, measured as needed."""


def named_folder() -> Path:
    """Profiles that ``reconvene device profile NAME`` keeps for ``--device NAME``."""
    return _home("XDG_DATA_HOME", ".local/share") / "devices"


def cache_folder() -> Path:
    """What this machine has measured of itself: safe to delete, it is measured again when needed."""
    return _home("XDG_CACHE_HOME", ".cache") / "devices"


def _home(variable: str, default: str) -> Path:
    configured = os.environ.get(variable, "")
    return (Path(configured) if configured else Path.home() / default) / "reconvene"


def find(device: str | Path) -> Profile:
    """The profile of a file, or of a name in ``named_folder``. Raises DeviceError."""
    path = Path(device)
    if path.suffix == ".json" or path.is_file():
        profile = Profile.load(path)
        return profile if profile.name else Profile.from_dict({**profile.to_dict(), "name": path.stem})
    file_by_name = {file.stem: file for file in sorted(named_folder().glob("*.json"))}
    if str(device) not in file_by_name:
        known = ", ".join(["here", "the file of a profile", *file_by_name])
        raise DeviceError(
            f"no device is called {str(device)!r}.{suggestion(device, file_by_name)} Available: {known}. "
            f"Measure one: reconvene device profile --name NAME"
        )
    return Profile.load(file_by_name[str(device)])


def measure_device(
    jobs: Sequence[LayerJob],
    *,
    threads: int = 1,
    precision: str = "fp32",
    far: int = 64 << 20,
    networks: Sequence[NetworkSpec] = (),
    name: str = "",
) -> Profile:
    """Measure layers, and whole networks of them (``networks``), on this machine now.

    Raises MissingExtraError, DeviceError.
    """
    options: dict[str, Any] = {"threads": threads, "precision": precision, "network_bytes": far, "networks": networks}
    return Profile.from_dict({**_probed(jobs, **options), "name": name})


def here(
    jobs: Sequence[LayerJob],
    *,
    threads: int = 1,
    precision: str = "fp32",
    far: int = 64 << 20,
) -> Profile:
    """The profile of this machine for these layers: what is in the cache, and what is not measured now and added.

    Raises MissingExtraError, DeviceError.
    """
    far = 1 << max(21, (far - 1).bit_length())  # one file for all models of about a size
    path = _cache_path(threads, precision, far)
    cached = _cached(path)
    layer_by_spec = {layer.spec: layer for layer in cached.layers} if cached else {}
    missing = [job for job in jobs if not _covers(layer_by_spec.get(job.spec), job)]
    if cached is not None and not missing:
        return cached
    lost = unwritable(path)
    where_kept = (
        f"kept in {path}" if not lost else f"and again the next time, since nothing can be kept in {path}: {lost}"
    )
    note(f"measuring {len(missing)} layers on this machine, {where_kept}")
    measured = _probed(missing, threads=threads, precision=precision, network_bytes=far, cached=cached)
    layers = {
        **{spec: layer.to_dict() for spec, layer in layer_by_spec.items()},
        **{MeasuredLayer.from_dict(layer).spec: layer for layer in measured["layers"]},
    }
    joint_timings = [*(cached.whole if cached else []), *measured["whole"]]
    profile = Profile.from_dict(
        {**measured, "layers": list(layers.values()), "whole": joint_timings, "name": "this machine"}
    )
    if not lost:
        save_profile(profile, path)
    return profile


def measuring_conditions(threads: int = 1, precision: str = "fp32") -> dict[str, Any]:
    """What is measured on here. Raises MissingExtraError."""
    try:
        return facts.conditions(threads, precision)
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "measuring a device") from error


def save_profile(profile: Profile, path: Path) -> None:
    """Write a profile, whole or not at all. Raises DeviceError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not ``write_atomic``: several processes may measure this machine at once, and each needs a name of its own.
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(profile.to_json(), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise DeviceError(f"the device profile {path} cannot be written: {error.strerror or error}") from error


def profiles() -> tuple[list[tuple[Path, Profile]], list[str]]:
    """Every profile of the two folders that can be read, and what is wrong with the others."""
    readable, wrong = [], []
    for file in [*sorted(named_folder().glob("*.json")), *sorted(cache_folder().glob("*.json"))]:
        try:
            readable.append((file, Profile.load(file)))
        except DeviceError as error:
            wrong.append(str(error))
    return readable, wrong


def _probed(
    jobs: Sequence[LayerJob],
    *,
    threads: int,
    precision: str,
    network_bytes: int,
    networks: Sequence[NetworkSpec] = (),
    cached: Profile | None = None,
) -> dict[str, Any]:
    measuring_conditions(threads, precision)
    basis = None
    if cached is not None:
        basis = {"steps": cached.steps, "memory": cached.memory, "overhead": cached.overhead, "pace": cached.pace}
    try:
        with stage("measuring layers", len(jobs) + 1, summary=False) as work:
            return probe.profile(
                jobs,
                threads=threads,
                precision=precision,
                network_bytes=network_bytes,
                networks=networks,
                report=lambda done, total, layer: work.move_to(done, detail=layer),
                earlier=basis,
            )
    except _runtime_errors() as error:
        raise DeviceError(f"ONNX Runtime does not run a layer that was to be measured: {error}") from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime: they have no common base but Exception."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    runtime_errors = tuple(
        member for member in vars(state).values() if isinstance(member, type) and issubclass(member, Exception)
    )
    return (*runtime_errors, RuntimeError, ValueError)


def _cache_path(threads: int, precision: str, network_bytes: int) -> Path:
    identity = json.dumps(
        [probe.VERSION, measuring_conditions(threads, precision)["device"], threads, network_bytes], sort_keys=True
    )
    version = measuring_conditions(threads, precision)["runtime"]["version"]
    return cache_folder() / f"{precision}-{version}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"


def _cached(path: Path) -> Profile | None:
    """What the cache holds, ``None`` where there is nothing that this version can read: it is measured again."""
    try:
        return Profile.load(path) if path.is_file() else None
    except DeviceError:
        return None


def _covers(layer: MeasuredLayer | None, job: LayerJob) -> bool:
    return layer is not None and layer.in_width >= job.in_width and layer.out_width >= job.out_width
