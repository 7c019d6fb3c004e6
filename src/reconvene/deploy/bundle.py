"""A device bundle: one archive with all that a device needs to classify images, and to prove that it does it rightly.

In it lie the exported models, ``bundle.json`` (pre-processing, labels, results), ``run.py`` with the package
``on_device`` (they need the runtime and numpy), images with the answers that were computed here, an example, a README,
and a checksum of everything.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconvene._version import __version__
from reconvene.data import Preprocessing
from reconvene.deploy import on_device
from reconvene.deploy.bundle_description import BundledInput, BundledModel, BundledTest, Description, read_description
from reconvene.deploy.bundle_readme import readme
from reconvene.deploy.exporter import Exported
from reconvene.deploy.on_device.files import MANIFEST, SUMS, Refused
from reconvene.deploy.on_device.images import normalise
from reconvene.deploy.runtimes.base import Runtime
from reconvene.deploy.runtimes.registry import FORMATS
from reconvene.errors import ExportError
from reconvene.utils.files import make_parent, write_atomic

_SUFFIXES = (".tar.gz", ".tgz")
_TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.03, "plan": 0.03}
"""How far, as a share of the largest score, a device's answers may be from those stored. In int8 processors round ties
differently: single scores move by one step of the quantised output, about a 120th of the largest score."""
_LAUNCHER = "run.py"


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
        lost = f"not in it, since its run.py runs only {', '.join(runnable())}: {', '.join(self.left_out)}"
        return f"{first}\n{lost}" if self.left_out else first

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the file name without its folder."""
        archive = {"file": self.path.name, "bytes": self.bytes, "sha256": self.sha256}
        return {**archive, "files": list(self.files), "left_out": list(self.left_out)}


def write_bundle(
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
    chosen = [exported for exported in exports if exported.format in runnable()]
    require_bundle(target, [exported.format for exported in chosen], [exported.batch for exported in chosen])
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
    files |= device_program({name: runnable()[name] for name in (exported.format for exported in chosen)}.values())
    files |= {"README.md": readme(description).encode()}
    described = _json({**description.to_dict(), "sizes": {name: len(data) for name, data in files.items()}})
    read_description(described)  # what is written can be read
    files[MANIFEST] = described
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    files[SUMS] = sums.encode()
    archive = pack(files, _root(target))
    make_parent(target, error=ExportError)
    write_atomic(target, archive, error=ExportError)
    left_out = tuple(exported.path.name for exported in exports if exported.format not in runnable())
    return Bundled(target, len(archive), hashlib.sha256(archive).hexdigest(), tuple(sorted(files)), left_out)


def require_bundle(path: Path, formats: Iterable[str], batches: Iterable[int | str | None]) -> None:
    """Raise ExportError where no bundle can be written to ``path`` of files in these formats and static batches.

    A batch that is not a number is one that the files do not fix.
    """
    _root(path)
    if not set(formats) & set(runnable()):
        raise ExportError(f"a bundle needs a model that its run.py can run. Export to one of: {', '.join(runnable())}")
    for batch in batches:
        if isinstance(batch, int) and batch != 1:
            raise ExportError(
                f"files that take {batch} images a call fit no bundle, which classifies one image at a time. Export "
                "with batch=1 (--batch 1)"
            )


def _root(path: Path) -> str:
    """The folder in the archive, which bears its name. Raises ExportError for a name of another ending."""
    suffix = next((suffix for suffix in _SUFFIXES if path.name.endswith(suffix)), None)
    if suffix is None or path.name == suffix:
        raise ExportError(f"a bundle is a compressed archive: call it NAME.tar.gz, not {path.name!r}")
    return path.name.removesuffix(suffix)


def runnable() -> dict[str, Runtime]:
    """Formats whose files a bundle can run, and their runtimes."""
    return {name: runtime for name, runtime in FORMATS.items() if runtime.on_device is not None}


def device_program(runtimes: Iterable[Runtime]) -> dict[str, bytes]:
    """What runs on the device, by its name in the bundle: ``run.py`` and the package ``on_device``, as they are."""
    folder = Path(on_device.__file__).parent
    package = [file for file in sorted(folder.glob("*.py")) if file.name != _LAUNCHER]
    files = {f"on_device/{file.name}": file.read_bytes() for file in package}
    files["on_device/runtimes/__init__.py"] = (folder / "runtimes" / "__init__.py").read_bytes()
    for runtime in runtimes:
        assert runtime.on_device is not None, "it is runnable"
        files[f"on_device/runtimes/{runtime.name}.py"] = runtime.on_device.program.read_bytes()
    return {**files, _LAUNCHER: (folder / _LAUNCHER).read_bytes()}


def _loader(runtime: Runtime) -> Callable[[Path, int], Callable[[NDArray[Any]], NDArray[Any]]]:
    """``load`` of the program that goes to the device, run here: it gives the answers that the device's are held to."""
    assert runtime.on_device is not None, "it is runnable"
    name = f"{on_device.__name__}.runtimes.{runtime.name}"
    spec = importlib.util.spec_from_file_location(name, runtime.on_device.program)
    assert spec is not None and spec.loader is not None, "it is a Python file"
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    load: Callable[[Path, int], Callable[[NDArray[Any]], NDArray[Any]]] = program.load
    return load


def pack(files: Mapping[str, bytes], root: str) -> bytes:
    """A gzipped tar of ``files`` in the folder ``root``, with no time, owner or order of the machine in it.

    Names that ustar has room for are as there; the format of POSIX.1-2001 adds a header for longer ones.
    """
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size, entry.mode = len(data), 0o755 if name == _LAUNCHER else 0o644
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
        runtime = runnable()[exported.format]
        assert runtime.on_device is not None, "it is runnable"
        try:
            infer = _loader(runtime)(exported.path, 1)
            answers = np.concatenate([infer(normalise(image[None], input_settings)) for image in images])
        except Refused as error:
            raise ExportError(str(error)) from error
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
                runtime=runtime.name,
                package=runtime.on_device.package,
                expected=expected,
                precision=exported.precision,
                keep_fp32=tuple(exported.keep_fp32),
                tolerance=_TOLERANCES[exported.precision],
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
