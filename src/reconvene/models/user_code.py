"""Models of the user's own: a callable of a module or of a file. Importing runs code: only where that is allowed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from reconvene.errors import ModelError, UnknownNameError


def import_callable(location: str, name: str) -> Callable[..., Any]:
    """The callable ``name`` (dots allowed) of ``location``: a module, ``package.module``, or a file, ``folder/net.py``.

    Raises ModelError, UnknownNameError.
    """
    try:
        with importing_from(location):
            attribute: Any = _load_file(Path(location)) if location.endswith(".py") else _load_module(location)
    except (Exception, SystemExit) as error:
        words = str(error) if isinstance(error, ModelError) else describe_error(error)
        raise ModelError(f"{location}:{name}: {location} cannot be imported: {words}") from error
    for part in name.split("."):
        if not hasattr(attribute, part):
            public = [key for key in vars(attribute) if not key.startswith("_") and callable(getattr(attribute, key))]
            raise UnknownNameError(f"callable of {location}", name, public)
        attribute = getattr(attribute, part)
    if not callable(attribute):
        raise ModelError(
            f"{location}:{name} is {type(attribute).__name__}, nothing that can be called to build a model"
        )
    constructor: Callable[..., Any] = attribute
    return constructor


@contextmanager
def importing_from(location: str) -> Iterator[None]:
    """Look for modules in the folder of a file, else in the current one, before the installed ones: as ``python`` does.

    Within, as long as a model is imported and built; afterwards the list of folders is as it was.
    """
    folder = str(Path(location).absolute().parent) if location.endswith(".py") else ""
    sys.path.insert(0, folder)
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise ModelError(
            f"there is no module {name!r}: neither {name.replace('.', '/')}.py in {Path.cwd()}, nor one that is "
            "installed. For a file elsewhere, give its path: folder/net.py:make"
        ) from error


def _load_file(path: Path) -> ModuleType:
    """The module of a file, loaded once; under its own name where no other module has that."""
    path = path.expanduser().absolute()
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    names = (path.stem, f"{path.stem}_{sha256(str(path).encode('utf-8', 'surrogateescape')).hexdigest()[:8]}")
    for name in names:
        loaded = sys.modules.get(name)
        if loaded is not None and getattr(loaded, "__file__", None) == str(path):
            return loaded
    name = next(name for name in names if name not in sys.modules)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "the file ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def code_sha256(built: Callable[..., Any]) -> str:
    """Digest of the files with the code of a callable: its module's, and those beside it that this one imports.

    What lies in other folders, such as an installed package, does not count.
    """
    digest = sha256()
    for path in _own_files(built):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _own_files(built: Callable[..., Any]) -> list[Path]:
    """Files of the modules that a callable's module reaches through its names, in and below its own folder."""
    start = sys.modules.get(getattr(built, "__module__", ""))
    if start is None or not getattr(start, "__file__", None):
        return []
    root = Path(str(start.__file__)).parent
    found: dict[Path, None] = {}
    pending = [start]
    while pending:
        module = pending.pop()
        file = Path(str(getattr(module, "__file__", None) or ""))
        if file in found or root not in file.parents or "site-packages" in file.relative_to(root).parts:
            continue
        found[file] = None
        values = list(vars(module).values())
        pending += [value for value in values if isinstance(value, ModuleType)]
        names = {value.__module__ for value in values if isinstance(value, type | FunctionType)}
        pending += [sys.modules[name] for name in sorted(map(str, names)) if name in sys.modules]
    return sorted(found)


def describe_error(error: BaseException) -> str:
    """Type and words of an error of foreign code, and the last line of it that was at work."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [frame for frame in frames if not frame.filename.startswith(("<", str(Path(__file__).parents[1])))]
    place = f" ({Path(foreign[-1].filename).name}, line {foreign[-1].lineno})" if foreign else ""
    words = str(error).partition("Exception raised from")[0]  # PyTorch appends the frames of its C++ code
    return f"{type(error).__name__}: {' '.join(words.split())}{place}"
