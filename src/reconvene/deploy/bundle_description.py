"""What ``bundle.json`` says of a device bundle, and the check of a whole bundle before it is passed on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from reconvene.data.preprocessing import ChannelValues
from reconvene.deploy.on_device.files import MANIFEST, Files, Refused, is_inside
from reconvene.errors import ExportError
from reconvene.utils import schema
from reconvene.utils.schema import Count, Plain, Size, Text


def _inside(name: str) -> str:
    if not is_inside(name):
        raise ValueError(f"{name!r} is not a plain file inside the bundle")
    return name


_FileName = Annotated[str, Field(max_length=1000), AfterValidator(_inside)]


@schema.opened
@dataclass(frozen=True)
class BundledModel:
    """One model: its ``files``, in which of the runner's runtimes, and the answers that are expected of it.

    ``package`` is what pip calls the runtime; ``tolerance`` how far, as a share of the largest score, answers may be
    off; ``verified`` what was compared with PyTorch, None where nothing was.
    """

    file: _FileName
    files: Annotated[tuple[_FileName, ...], Field(min_length=1, max_length=1000)]
    runtime: Text
    package: Text
    expected: _FileName
    precision: Text
    tolerance: Annotated[float, Field(gt=0, le=1)]
    bytes: Count
    keep_fp32: tuple[Text, ...] = ()
    verified: dict[str, Plain] | None = None


@schema.opened
@dataclass(frozen=True)
class BundledInput:
    """What images go through: as ``reconvene.data.Preprocessing`` says it."""

    shape: tuple[Size, Size, Size]
    mean: ChannelValues
    std: ChannelValues


@schema.opened
@dataclass(frozen=True)
class BundledTest:
    """The images that a device tests itself with, and in words where they are from."""

    images: _FileName
    origin: Annotated[Text, Field(alias="from")]


@schema.opened
@dataclass(frozen=True)
class Description:
    """All of ``bundle.json``. ``sizes``: bytes by file name, of all files but itself; bundles before had none."""

    reconvene: Text
    model: Text
    models: Annotated[tuple[BundledModel, ...], Field(min_length=1, max_length=1000)]
    input: BundledInput
    labels: Annotated[tuple[Text, ...], Field(min_length=1, max_length=10_000_000)]
    test: BundledTest
    results: dict[str, Text]
    sizes: dict[_FileName, Count] | None = None
    format: Literal["reconvene-bundle"] = "reconvene-bundle"
    format_version: Literal[1] = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as the file holds them."""
        return {**asdict(self), "test": {"images": self.test.images, "from": self.test.origin}}


def read_description(text: bytes, source: object = MANIFEST) -> Description:
    """The description in the text of ``bundle.json``. Raises ExportError."""
    return schema.read_json(Description, text, source=source, error=ExportError)


def check_bundle(folder: str | Path) -> Description:
    """Check an unpacked bundle as its own ``run.py`` does before it runs, without running anything of it.

    Every file that the checksums name is a regular one inside the folder, of the size that is stated, with the digest
    that is stated; no other file there could be imported by Python; ``bundle.json`` has the types and bounds of
    ``Description``.

    Raises ExportError, which names the first file or field that is not so.
    """
    try:
        files = Files(Path(folder))
        return read_description(files.read(MANIFEST), Path(folder) / MANIFEST)
    except Refused as error:
        raise ExportError(f"{folder}: {error}") from error
