"""The README of a device bundle, for somebody who has never heard of Reconvene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconvene.deploy.bundle_description import Description
from reconvene.utils.tables import Cell, text_table


def readme(description: Description) -> str:
    """The text, from what ``bundle.json`` says."""
    channels, height, width = description.input.shape
    colour = "grey" if channels == 1 else "RGB"
    labels = description.labels
    classes = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more (bundle.json)" if len(labels) > 20 else "")
    example = "example.pgm" if channels == 1 else "example.ppm"
    runtimes = " ".join(dict.fromkeys(model.package for model in description.models))
    return f"""# {description.model}, for a device

Classifies images into {len(labels)} classes: {classes}.

    pip install numpy {runtimes}
    python run.py test                  # the answers here equal those of the machine that made this bundle
    python run.py classify {example}  # or any image of yours
    python run.py time                  # how long one image takes here

Nothing else is needed: no PyTorch, no Reconvene, Python 3.9 or newer. `--json` answers as JSON, `--model FILE` chooses
a model, `python run.py --help` shows the rest.

## Models

{_models(description)}

{_results(description)}

## Images

Every image becomes {width}x{height} {colour}: scaled to cover it (bilinear, antialiased), the middle cut out, as in
training. Then `(x - 255 mean) / (255 std)` per channel, with `mean` and `std` in bundle.json. Transparency is ignored.

PNG (8 bits a channel, not interlaced), PPM, PGM and NPY (uint8) are read without further packages. Where Pillow is
installed it reads PNG, JPEG and everything else it knows; run.py says on stderr which of the two read an image. Of a
PNG both give the same pixels.

## Is it what was made?

run.py compares every file with its checksum in SHA256SUMS before it does anything, and refuses a bundle that was
altered or damaged; `sha256sum -c SHA256SUMS` does the same. run.py also refuses Python modules in this folder that have
no checksum; images and results of yours may lie here. This finds damage and mix-ups. It does not prove who made the
bundle: for that, compare the digest of the whole archive with the one that its maker published.

The images that `test` compares are {description.test.origin}. The stored answers were computed in the same runtime
on the machine that made the bundle. Shares shown by `classify` are the softmax of the scores; they are not calibrated.

Made by Reconvene {description.reconvene}.
"""


def _models(description: Description) -> str:
    rows: list[list[Cell]] = []
    for model in description.models:
        checked = model.verified
        said = "not verified" if checked is None else f"{_measured(model.precision, checked)} on {checked['data']}"
        in_float = f"; in fp32: {', '.join(model.keep_fp32)}" if model.keep_fp32 else ""
        rows.append([model.file, model.runtime, model.bytes, said + in_float])
    return _indented(text_table(["file", "runs in", "bytes", "against PyTorch"], rows))


def _results(description: Description) -> str:
    cells: list[list[Cell]] = [[name, value] for name, value in description.results.items()]
    return (
        _indented(text_table(["of the model", ""], cells))
        if cells
        else "It was not trained: its answers mean nothing yet."
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _measured(precision: str, checked: Mapping[str, Any]) -> str:
    """How far from PyTorch: float32 by its error, int8 and bits of a plan by their noise and their predictions."""
    if "max_rel_error" in checked:
        return f"relative error {checked['max_rel_error']:.1e}"
    agreement = "" if checked["agreement"] is None else f", {checked['agreement']:.2%} of the predictions the same"
    noise = "no noise" if checked["sqnr"] is None else f"SQNR {checked['sqnr']:.1f} dB"
    return f"{'bits of the plan' if precision == 'plan' else precision}, {noise}{agreement}"
