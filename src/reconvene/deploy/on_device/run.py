#!/usr/bin/env python3
"""Classify images with the model of this bundle; ``python run.py --help`` says how.

Python puts the folder of a program on its path: a file numpy.py in it would be taken for numpy. So the folder leaves
the path before anything is imported, and the modules of on_device come from the files that SHA256SUMS names, each
compared with its checksum; no bytecode is read or written.
"""

import os  # Python has loaded it before this file: os.py in the folder is not in question
import sys

FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != FOLDER]

import hashlib  # noqa: E402  # only now is the path what it should be
import importlib.util  # noqa: E402
from importlib.abc import Loader, MetaPathFinder  # noqa: E402
from importlib.machinery import ModuleSpec  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402
from typing import NoReturn, Optional  # noqa: E402

SUMS, PROGRAM = "SHA256SUMS", "on_device"


class CheckedModules(MetaPathFinder, Loader):
    """Finds and loads the modules of on_device. The program ends where a file is not as its checksum says."""

    def __init__(self) -> None:
        try:
            lines = content(SUMS).decode().splitlines()
            self.sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        except ValueError:
            refuse(f"{SUMS} is damaged")

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Optional[ModuleSpec]:
        """Where a module is, of on_device only."""
        if fullname.partition(".")[0] != PROGRAM:
            return None
        stem = fullname.replace(".", "/")
        is_package = f"{stem}/__init__.py" in self.sums
        name = f"{stem}/__init__.py" if is_package else f"{stem}.py"
        return importlib.util.spec_from_loader(fullname, self, origin=name, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> None:
        """Python makes the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run exactly the bytes that were compared."""
        name = str(module.__spec__ and module.__spec__.origin)
        if name not in self.sums:
            refuse(f"{SUMS} is damaged: {name} has no checksum in it")
        source = content(name)
        if hashlib.sha256(source).hexdigest() != self.sums[name]:
            refuse(f"{name} was altered or damaged: its checksum does not fit {SUMS}")
        exec(compile(source, os.path.join(FOLDER, name), "exec", dont_inherit=True), module.__dict__)


def content(name: str) -> bytes:
    """The bytes of a regular file of this folder: a named pipe would keep the program for ever."""
    path = os.path.join(FOLDER, name)
    if not os.path.isfile(path):
        refuse(f"{name} is not a regular file" if os.path.lexists(path) else f"{name} is missing")
    try:
        with open(path, "rb") as file:
            return file.read(2**24)  # more than any of them has
    except OSError as error:
        refuse(f"{name} cannot be read: {error}")


def refuse(reason: str) -> NoReturn:
    """End the program with one line."""
    sys.exit(f"run.py: {reason}. Unpack the bundle again")


if __name__ == "__main__":
    sys.meta_path.insert(0, CheckedModules())
    try:
        program = importlib.import_module(f"{PROGRAM}.main")
    except ModuleNotFoundError as error:
        sys.exit(f"run.py: this machine has no {error.name}. Try: pip install {error.name}")
    sys.exit(program.main(Path(FOLDER)))
