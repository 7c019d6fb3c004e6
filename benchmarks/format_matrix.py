"""Every format x every network, pruned 4x and trained on digits: is the file still that network in fp32 and int8.

python benchmarks/format_matrix.py                     # what is not in the results yet, in the installed runtimes
python benchmarks/format_matrix.py --again             # everything anew
python benchmarks/format_matrix.py --again --only litert    # one format, in its own environment; other rows stay
python benchmarks/pages format_matrix                  # writes the table of the docs

What is measured is what tests/deploy/test_formats.py asserts (tests/support/format_cells.py). Nothing here is timed.
Networks are kept in out/format_matrix: remove them where tests/support/format_nets.py changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rows import read_rows

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from torch import nn  # noqa: E402

import reconvene as rc  # noqa: E402
from reconvene.deploy import FORMATS as ALL_FORMATS  # noqa: E402
from support.format_cells import measured  # noqa: E402
from support.format_nets import NAMES, trained  # noqa: E402

FORMATS = {name: runtime for name, runtime in ALL_FORMATS.items() if runtime.timed}
"""Those that a device runs; a format that is only replayed takes spiking networks."""

RESULTS = ROOT / "benchmarks" / "results" / "format_matrix.jsonl"
NETWORKS = ROOT / "out" / "format_matrix"

Row = dict[str, Any]


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    parser.add_argument("--only", action="append", choices=sorted(FORMATS), help="a format; as often as needed")
    parser.add_argument("--model", action="append", choices=NAMES, help="a network; as often as needed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    measure(given.model or NAMES, given.only or [name for name in FORMATS if FORMATS[name].installed], given.again)


def read() -> dict[tuple[str, str], Row]:
    """The rows that are there, by network and format."""
    return {(row["model"], row["format"]): row for row in read_rows(RESULTS)}


def measure(models: list[str], formats: list[str], again: bool) -> None:
    """Every network in every format; the results are kept after each."""
    rows = read()
    for model in models:
        for format in formats:
            if (model, format) in rows and not again:
                continue
            with tempfile.TemporaryDirectory() as folder:
                row = measured(model, network(model), format, Path(folder))
            rows[model, format] = row | {"versions": {"torch": torch.__version__, **FORMATS[format].versions()}}
            kept = sorted(rows.values(), key=lambda row: (NAMES.index(row["model"]), row["format"]))
            RESULTS.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            print(json.dumps(row), flush=True)


def network(name: str) -> nn.Module:
    """The trained network of an earlier run, also one in another environment: all formats get the same weights."""
    folder = NETWORKS / name.replace(":", "_")
    if not folder.exists():
        rc.save(trained(name), folder)
    return rc.load(folder)


if __name__ == "__main__":
    main()
