"""One file that measures a device: the package ``on_device`` and its jobs, for a Python with numpy and onnxruntime."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reconvene.devices.on_device.layer_spec import LayerJob
from reconvene.devices.on_device.sessions import NetworkSpec
from reconvene.errors import DeviceError
from reconvene.utils.files import make_parent, write_atomic

_MAIN = """\
import importlib.util
import sys

if missing := [name for name in ("numpy", "onnxruntime") if importlib.util.find_spec(name) is None]:
    sys.exit(f"this device has no {' and no '.join(missing)}. Try: pip install numpy onnxruntime")
from on_device.probe import main

sys.exit(main())
"""
_DAY = (2020, 1, 1, 0, 0, 0)  # the same jobs give the same bytes


def write_probe_bundle(
    path: str | Path,
    jobs: Sequence[LayerJob],
    *,
    threads: int,
    precision: str,
    far: int,
    networks: Sequence[NetworkSpec] = (),
) -> Path:
    """Write ``path`` (``probe.pyz``): ``python probe.pyz -o pi4.json`` on the device writes its profile.

    Raises DeviceError where it cannot be written.
    """
    path = Path(path)
    request: dict[str, Any] = {
        "jobs": [job.to_dict() for job in jobs],
        "threads": threads,
        "precision": precision,
        "far": far,
    }
    request["networks"] = [network_layers for network_layers, _ in networks]
    program = Path(__file__).parent / "on_device"
    files = {f"on_device/{file.name}": file.read_bytes() for file in sorted(program.glob("*.py"))}
    files |= {"__main__.py": _MAIN.encode(), "on_device/jobs.json": json.dumps(request, indent=1).encode()}
    files |= {f"on_device/network{number}.onnx": model for number, (_, model) in enumerate(networks)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DAY), content)
    make_parent(path, error=DeviceError)
    write_atomic(path, packed.getvalue(), error=DeviceError)
    return path
