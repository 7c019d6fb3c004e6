"""Install the oldest version of each optional package that pyproject.toml allows, and check what our code takes of it.

Each extra gets an environment of its own, on top of the one this runs in: only the oldest versions and what they need
besides are installed. Run by ``make test-oldest``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
from pathlib import Path

from support.optional_surface import merged

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("hub", "onnx", "vision", "data", "transformers", "fleet", "openvino", "ncnn", "executorch")
IMPORTED = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}
"""Where a package is imported by another name than it is installed by."""
BROUGHT = {"data": {"pyarrow"}, "onnx": {"onnx_ir"}, "vision": {"torchvision"}}
"""What the packages of an extra bring that our code imports too."""


def oldest(extra: str) -> list[str]:
    """``name==version`` for every lower bound of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = (re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", line) for line in project["optional-dependencies"][extra])
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound is not None]


def check(extra: str, folder: Path) -> dict[str, list[str]]:
    """What is missing in the oldest packages of an extra, by function. Raises CalledProcessError."""
    wanted = oldest(extra)
    names = [line.partition("==")[0] for line in wanted]
    packages = {IMPORTED.get(name, name.replace("-", "_")) for name in names} | BROUGHT.get(extra, set())
    assert merged(packages), f"our code imports nothing of {extra}"
    venv.create(folder, with_pip=False, clear=True)
    python = folder / "bin" / "python"
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-warn-conflicts", *wanted], check=True)
    script = [str(python), str(ROOT / "tests" / "support" / "optional_surface.py"), *sorted(packages)]
    done = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    assert report, f"nothing of {extra} was checked"
    return {where: lost for where, lost in report.items() if lost}


def main(extras: list[str]) -> int:
    """Check the extras (all by default) and print a line for each."""
    failed = 0
    for extra in extras or EXTRAS:
        began = time.monotonic()
        lost = check(extra, ROOT / ".venv-oldest" / extra)
        failed += bool(lost)
        print(
            f"{extra}: {', '.join(oldest(extra))}: {lost or 'all there'} ({time.monotonic() - began:.0f} s)", flush=True
        )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
