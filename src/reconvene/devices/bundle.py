"""One file that measures a device: the probe and what it is to measure, for a Python with numpy and onnxruntime."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reconvene.errors import DeviceError

MODULES = ("probe.py", "facts.py", "points.py", "layers.py", "wire.py")
_MAIN = "import sys\n\nfrom probe import main\n\nsys.exit(main())\n"
_DAY = (2020, 1, 1, 0, 0, 0)  # the same jobs give the same bytes


def write_bundle(
    path: str | Path, jobs: Sequence[Mapping[str, Any]], *, threads: int, precision: str, far: int
) -> Path:
    """Write ``path`` (``probe.pyz``): ``python probe.pyz -o pi4.json`` on the device writes its profile.

    Raises DeviceError where it cannot be written.
    """
    path = Path(path)
    asked = {"jobs": list(jobs), "threads": threads, "precision": precision, "far": far}
    files = {name: (Path(__file__).parent / name).read_text(encoding="utf-8") for name in MODULES}
    files |= {"__main__.py": _MAIN, "jobs.json": json.dumps(asked, indent=1)}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name, _DAY), text)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DeviceError(f"{path} cannot be written: {error.strerror or error}") from error
    return path
