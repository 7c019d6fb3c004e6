"""The files of a device bundle, checked before they are used: a part of what runs on a device.

Only the standard library is used, and nothing newer than Python 3.9. A bundle is somebody else's: its checksums name
plain files inside it and nothing else, no file is read that is not regular and of the size that it must have, and what
``bundle.json`` says has the types that it must have.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

MANIFEST, SUMS = "bundle.json", "SHA256SUMS"
_UNPACK = "Unpack the bundle again"
_SMALL = 2**24
"""Bytes of ``bundle.json`` and of the checksums at most."""
_LARGEST = 2**32
"""Bytes of any other file at most, where the bundle does not state them."""
MOST_FILES = 10_000
IMPORTABLE = (".py", ".pyw", ".pyc", ".pyd", ".so")
# What run.py computes with. A list holds any number of values of the type of its only one.
DESCRIPTION: dict[str, Any] = {
    "models": [{"file": str, "files": [str], "runtime": str, "expected": str, "tolerance": float}],
    "input": {"shape": [int], "mean": [float], "std": [float]},
    "labels": [str],
    "test": {"images": str},
}
WORDS = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


class Refused(Exception):
    """What cannot be done, in one line for the user."""


class Files:
    """The files of a bundle in a folder, each as its checksum says. Raises Refused where one is not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sums = checksums(self._content(SUMS, _SMALL))
        self.about = description(self.read(MANIFEST))
        self.sizes: dict[str, int] = self.about.get("sizes", {})
        for name in self.sums:
            self._compare(name)
        for name in modules_in(folder, self.sums):
            if name not in self.sums:
                raise Refused(
                    f"{name} is not of this bundle: it has no checksum in {SUMS}, and Python could run it in place of "
                    "another module. Move it out of the folder"
                )

    def read(self, name: str) -> bytes:
        """The bytes of a file of the bundle, which must have a checksum."""
        self._require(name)
        data = self._content(name, _SMALL if name == MANIFEST else self.sizes.get(name, _LARGEST))
        if hashlib.sha256(data).hexdigest() != self.sums[name]:
            raise altered(name)
        return data

    def path(self, name: str) -> Path:
        """Where a file of the bundle lies, which must have a checksum."""
        self._require(name)
        return self.folder / name

    def _require(self, name: str) -> None:
        if name not in self.sums:
            raise Refused(f"{name} has no checksum in {SUMS}. {_UNPACK}")

    def _compare(self, name: str) -> None:
        digest = hashlib.sha256()
        with self.opened(name) as file:
            size = os.fstat(file.fileno()).st_size
            expected = self.sizes.get(name)
            if size != expected if expected is not None else size > _LARGEST:
                raise altered(name)
            for chunk in chunks(file):
                digest.update(chunk)
        if digest.hexdigest() != self.sums[name]:
            raise altered(name)

    def _content(self, name: str, limit: int) -> bytes:
        with self.opened(name) as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise Refused(f"{name} is larger than the {limit:,} bytes that it may have. {_UNPACK}")
            return file.read(limit)

    def opened(self, name: str) -> BinaryIO:
        """A regular file inside the folder, opened without waiting: a named pipe would keep it for ever."""
        path = self.folder / name
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise Refused(f"{name} is a link that leads out of the bundle. {_UNPACK}")
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            raise Refused(f"{name} is missing. {_UNPACK}") from None
        except (OSError, RuntimeError) as error:  # a RuntimeError: links in a circle
            raise Refused(f"{name} cannot be read: {error}. {_UNPACK}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Refused(f"{name} is not a regular file. {_UNPACK}")
        return os.fdopen(descriptor, "rb")


def modules_in(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Files that Python could import, in the folders of a bundle's files and the folders directly in these.

    That reaches packages and bytecode; a virtual environment in the folder has its modules further down.
    """
    for place in sorted({PurePosixPath(name).parent for name in names}):
        for pattern in ("*", "*/*"):
            for path in sorted((folder / place).glob(pattern)):
                if path.suffix.lower() in IMPORTABLE and path.is_file():
                    yield path.relative_to(folder).as_posix()


def altered(name: str) -> Refused:
    """The refusal of a file that is not what was put into the bundle."""
    return Refused(f"{name} was altered or damaged: its size or checksum does not fit {MANIFEST} or {SUMS}. {_UNPACK}")


def chunks(file: Any) -> Iterator[bytes]:
    """The content of a file, a MiB at a time."""
    while True:
        chunk = file.read(2**20)
        if not chunk:
            return
        yield chunk


def checksums(content: bytes) -> dict[str, str]:
    """Digests by file name, from the text of ``SHA256SUMS``."""
    try:
        pairs = [line.split("  ", 1) for line in content.decode("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise Refused(f"{SUMS} is damaged: {error}. {_UNPACK}") from error
    if not pairs or len(pairs) > MOST_FILES or any(len(pair) != 2 or len(pair[0]) != 64 for pair in pairs):
        raise Refused(f"{SUMS} is damaged. {_UNPACK}")
    for _, name in pairs:
        if not is_inside(name):
            raise Refused(f"{SUMS} names {name!r}, which is not a plain file inside the bundle. {_UNPACK}")
    return {name: digest for digest, name in pairs}


def is_inside(name: str) -> bool:
    """Whether a name is a plain relative path that leads down only, on every system."""
    parts = name.split("/")
    forbidden = set('\\:*?"<>|') | {chr(code) for code in range(32)}
    return all(part not in ("", ".", "..") and not forbidden & set(part) for part in parts)


def description(content: bytes) -> dict[str, Any]:
    """What ``bundle.json`` says, with the types of ``DESCRIPTION``."""
    try:
        about: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{MANIFEST} is not JSON that can be read: {error}. {_UNPACK}") from error
    version = (about.get("format"), about.get("format_version")) if isinstance(about, dict) else None
    if version != ("reconvene-bundle", 1):
        raise Refused(f"{MANIFEST} has format {str(version)[:60]}; this run.py reads version 1 of reconvene-bundle")
    require(about, {**DESCRIPTION, **({"sizes": dict} if "sizes" in about else {})}, "")
    channels = about["input"]["shape"][:1]
    sizes = {"input.shape": 3, "input.mean": sum(channels), "input.std": sum(channels)}
    for path, expected in sizes.items():
        part, name = path.split(".")
        if len(about[part][name]) != expected:
            raise Refused(f"{MANIFEST}: {path}: expected {expected} entries, got {len(about[part][name])}")
    if min(about["input"]["shape"]) < 1 or max(about["input"]["shape"]) > 2**16 or min(about["input"]["std"]) <= 0:
        raise Refused(f"{MANIFEST}: input: expected sizes and deviations above 0")
    if not about["models"] or any(model["file"] not in model["files"] for model in about["models"]):
        raise Refused(f"{MANIFEST}: models: expected some, each with its file among its files")
    if not all(type(size) is int and size >= 0 for size in about.get("sizes", {}).values()):
        raise Refused(f"{MANIFEST}: sizes: expected whole numbers")
    return dict(about)


def require(value: Any, shape: Any, path: str) -> None:
    """Raise Refused unless ``value`` has the types of ``shape``; entries that it does not name may be there."""
    expected = shape if isinstance(shape, type) else type(shape)
    is_number = expected is float and type(value) in (int, float) and math.isfinite(value)
    if not (is_number or type(value) is expected):
        raise Refused(f"{MANIFEST}: {path or 'it'}: expected {WORDS[expected]}, got {str(value)[:40]!r}")
    if isinstance(shape, dict):
        for name, entry in shape.items():
            if name not in value:
                raise Refused(f"{MANIFEST}: {path}{'.' * bool(path)}{name}: is missing")
            require(value[name], entry, f"{path}{'.' * bool(path)}{name}")
    elif isinstance(shape, list):
        for number, entry in enumerate(value):
            require(entry, shape[0], f"{path}.{number}")


def the_only(names: list[str], direction: str, file: str) -> str:
    """The name of the one input or output of a model: more than one, and nothing says which is meant."""
    if len(names) != 1:
        raise Refused(
            f"{file} has {len(names)} {direction}s ({', '.join(names)}), and a bundle needs one image as the input and "
            "one output, a score for each label. Export a model that takes and returns just these"
        )
    return names[0]


def one_line(error: Exception) -> str:
    """What a runtime says, which may run over several lines, as a part of a sentence."""
    return " ".join(str(error).split()).rstrip(".")
