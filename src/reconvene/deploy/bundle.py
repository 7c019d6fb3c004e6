"""A device bundle: one archive with all that a device needs to classify images, and to prove that it does it rightly.

In it lie the exported models, ``bundle.json`` (pre-processing, labels, results), ``run.py`` (one file that needs the
runtime and numpy), images with the answers that were computed here, an example, a README, and a checksum of everything.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene._version import __version__
from reconvene.data import Preprocessing
from reconvene.deploy import runner
from reconvene.deploy.bundle_description import BundledInput, BundledModel, BundledTest, Description, read_description
from reconvene.deploy.bundle_files import MANIFEST, SUMS, Refused
from reconvene.deploy.bundle_readme import readme
from reconvene.deploy.exporter import Exported
from reconvene.deploy.images import normalise
from reconvene.errors import ExportError
from reconvene.utils.files import write_atomic

SUFFIXES = (".tar.gz", ".tgz")
RUNNABLE = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "litert"}
"""Formats that ``run.py`` runs, and in which of its runtimes."""
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}
"""What pip calls them."""
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.03}
"""How far, as a share of the largest score, a device's answers may be from those stored. In int8 processors round ties
differently: single scores move by one step of the quantised output, about a 120th of the largest score."""
_PARTS = ("bundle_files.py", "images.py", "runner.py")
"""What ``run.py`` is put together from."""


@dataclass(frozen=True)
class Bundled:
    """What was bundled: the archive, its bytes and digest, the files in it, exports that ``run.py`` cannot run."""

    path: Path
    bytes: int
    sha256: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        first = f"{self.path}  bundle of {len(self.files)} files  {self.bytes:,} bytes  sha256 {self.sha256}"
        lost = f"not in it, since its run.py runs only {', '.join(RUNNABLE)}: {', '.join(self.left_out)}"
        return f"{first}\n{lost}" if self.left_out else first

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the file name without its folder."""
        archive = {"file": self.path.name, "bytes": self.bytes, "sha256": self.sha256}
        return {**archive, "files": list(self.files), "left_out": list(self.left_out)}


def bundle(
    path: str | Path,
    exports: Sequence[Exported],
    *,
    preprocessing: Preprocessing,
    images: NDArray[np.uint8],
    images_from: str,
    model: str,
    results: Mapping[str, str],
) -> Bundled:
    """Write the bundle of exported image classifiers. The same files and images give the same bytes.

    Args:
        path: of the archive, ``NAME.tar.gz``; everything in it lies in the folder ``NAME``.
        exports: of one model; the first is what the device runs unless told otherwise.
        images: uint8 ``[N, C, h, w]`` in the shape of ``preprocessing``: what the device tests itself with.
        images_from: in words.
        model: address of the model.
        results: what it achieved, as text by heading; empty for a model that was never trained.

    Raises ExportError: nothing that can be run, another number of answers than labels, a path that takes no file.
    """
    target = Path(path)
    suffix = next((suffix for suffix in SUFFIXES if target.name.endswith(suffix)), None)
    if suffix is None or target.name == suffix:
        raise ExportError(f"a bundle is a compressed archive: call it NAME.tar.gz, not {target.name!r}")
    chosen = [exported for exported in exports if exported.format in RUNNABLE]
    if not chosen:
        raise ExportError(f"a bundle needs a model that its run.py can run. Export to one of: {', '.join(RUNNABLE)}")
    files, models = _models(chosen, preprocessing, images)
    description = Description(
        reconvene=__version__,
        model=model,
        models=models,
        input=BundledInput(preprocessing.shape, preprocessing.mean, preprocessing.std),
        labels=preprocessing.classes,
        test=BundledTest("test/images.npy", images_from),
        results=dict(results),
    )
    files |= {"test/images.npy": _npy(images), _example_name(images): _pnm(images[0])}
    files |= {"run.py": runner_source(), "README.md": readme(description).encode()}
    described = _json({**description.to_dict(), "sizes": {name: len(data) for name, data in files.items()}})
    read_description(described)  # what is written can be read
    files[MANIFEST] = described
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    files[SUMS] = sums.encode()
    archive = pack(files, target.name.removesuffix(suffix))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make the folder {target.parent}: {error.strerror or error}") from error
    write_atomic(target, archive, error=ExportError)
    left_out = tuple(exported.path.name for exported in exports if exported.format not in RUNNABLE)
    return Bundled(target, len(archive), hashlib.sha256(archive).hexdigest(), tuple(sorted(files)), left_out)


def runner_source() -> bytes:
    """``run.py``: files that are read and tested apart, as the one that a device gets."""
    room = resources.files("reconvene.deploy")
    parts = [_split(room.joinpath(name).read_text(encoding="utf-8")) for name in _PARTS]
    modules: set[str] = set()
    names: dict[str, set[str]] = {}
    for node in [node for _, nodes, _ in parts for node in nodes]:
        if isinstance(node, ast.Import):
            modules.add(ast.unparse(node))
        elif node.module and not node.module.startswith("reconvene."):
            names.setdefault(node.module, set()).update(alias.name for alias in node.names)
    future = names.pop("__future__")
    lines = [f"from __future__ import {', '.join(sorted(future))}", "", *sorted(modules)]
    lines += [f"from {module} import {', '.join(sorted(imported))}" for module, imported in sorted(names.items())]
    head = parts[-1][0]
    bodies = [body for _, _, body in parts]
    bodies[-1] = f"# ---- the bundle ----\n\n{bodies[-1]}"
    return "\n".join([head, "\n".join(lines), *(f"\n{body}\n" for body in bodies)]).encode()


def _split(text: str) -> tuple[str, list[ast.Import | ast.ImportFrom], str]:
    """What stands above the imports of a file, the imports, and what stands below them."""
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = text.splitlines()
    below = "\n".join(lines[nodes[-1].end_lineno :])
    return "\n".join(lines[: nodes[0].lineno - 1]), nodes, below.strip()


def pack(files: Mapping[str, bytes], root: str) -> bytes:
    """A gzipped tar of ``files`` in the folder ``root``, with no time, owner or order of the machine in it."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size, entry.mode = len(data), 0o755 if name == "run.py" else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), compresslevel=9, mtime=0)


def _models(
    exports: Sequence[Exported], preprocessing: Preprocessing, images: NDArray[np.uint8]
) -> tuple[dict[str, bytes], tuple[BundledModel, ...]]:
    """The files of the exports with their answers to the images, and what the manifest says of them."""
    files: dict[str, bytes] = {}
    models = []
    input_settings = preprocessing.to_dict()
    for exported in exports:
        runtime = RUNNABLE[exported.format]
        if exported.batch not in (None, 1):
            raise ExportError(
                f"{exported.path.name} takes {exported.batch} images a call, and a bundle classifies one at a time. "
                "Export it with batch=1 (--batch 1)"
            )
        try:
            infer = runner.RUNTIMES[runtime](exported.path, 1)
        except Refused as error:
            raise ExportError(str(error)) from error
        answers = np.concatenate([infer(normalise(image[None], input_settings)) for image in images])
        if answers.shape != (len(images), len(preprocessing.classes)):
            raise ExportError(
                f"{exported.path.name} answers {len(images)} images with {list(answers.shape)}; to classify images, "
                f"a bundle needs [{len(images)}, {len(preprocessing.classes)}], a score for each label"
            )
        expected = f"test/{exported.path.name}.npy"
        files |= {file.name: file.read_bytes() for file in exported.files} | {expected: _npy(answers)}
        checked = exported.verification
        models.append(
            BundledModel(
                file=exported.path.name,
                files=tuple(file.name for file in exported.files),
                runtime=runtime,
                package=PACKAGES[runtime],
                expected=expected,
                precision=exported.precision,
                keep_fp32=tuple(exported.keep_fp32),
                tolerance=TOLERANCES[exported.precision],
                bytes=exported.bytes,
                verified=None if checked is None else checked.short,
            )
        )
    return files, tuple(models)


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _example_name(images: NDArray[np.uint8]) -> str:
    return "example.pgm" if images.shape[1] == 1 else "example.ppm"


def _pnm(image: NDArray[np.uint8]) -> bytes:
    channels, height, width = image.shape
    header = f"{'P5' if channels == 1 else 'P6'}\n{width} {height}\n255\n"
    return header.encode() + np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes()


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()
