"""Every format x every network, pruned 4x and trained on digits: is the file still that network in fp32 and int8.

python benchmarks/format_matrix.py                     # what is not in the results yet, in the installed runtimes
python benchmarks/format_matrix.py --again             # everything anew
python benchmarks/format_matrix.py --again --only litert    # one format, in its own environment; other rows stay
python benchmarks/format_matrix.py --table             # only writes the table in docs/export.md (--check compares)

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

from generated import GeneratedPart, read_rows

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

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "format_matrix.jsonl", ROOT / "docs" / "export.md"
NETWORKS = ROOT / "out" / "format_matrix"
PART = GeneratedPart(PAGE, "<!-- generated: matrix -->\n", "<!-- end -->")

Row = dict[str, Any]


def main() -> int:
    """Measure what was asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    parser.add_argument("--only", action="append", choices=sorted(FORMATS), help="a format; as often as needed")
    parser.add_argument("--model", action="append", choices=NAMES, help="a network; as often as needed")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--check", action="store_true", help="change nothing; the exit code is 1 if the table is old")
    given = parser.parse_args()
    if not given.table and not given.check:
        torch.set_num_threads(1)
        measure(given.model or NAMES, given.only or [name for name in FORMATS if FORMATS[name].installed], given.again)
    changed = PART.update(table(list(read().values())), write=not given.check)
    return changed if given.check else 0


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


def table(rows: list[Row]) -> str:
    """The results as they stand in docs/export.md."""
    header = ["network, pruned 4x", "format", "fp32 error", "int8 agreement", "SQNR", "accuracy fp32, int8", "bytes"]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for row in rows:
        fp32, int8 = row["fp32"], row["int8"]
        error = "refused" if "refused" in fp32 else f"{max(fp32['errors'].values()):.0e}"
        if "refused" in int8:
            cells = ["refused", "", "", ""]
        else:
            accuracy = f"{int8['reference_accuracy']:.1%}, {int8['accuracy']:.1%}"
            sizes = "" if "refused" in fp32 else f"{fp32['bytes']:,}, {int8['bytes']:,}"
            cells = [f"{int8['agreement']:.1%}", f"{int8['sqnr']:.0f} dB", accuracy, sizes]
        lines.append(f"| {' | '.join([row['model'], row['format'], error, *cells])} |")
    versions = {name: version for row in rows for name, version in row["versions"].items() if name != "torch"}
    notes = [f"With {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}."]
    for row in rows:
        for precision in ("fp32", "int8"):
            if "refused" in row[precision]:
                notes.append(f"- {row['model']} in {row['format']}, {precision}: {row[precision]['refused']}")
    done = {(row["model"], row["format"]) for row in rows}
    missing = {name: [format for format in sorted(FORMATS) if (name, format) not in done] for name in NAMES}
    if any(missing.values()):
        told = "; ".join(f"{name} in {', '.join(formats)}" for name, formats in missing.items() if formats)
        notes += ["", f"Not measured yet: {told}."]
    return "\n".join([*lines, "", *notes]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
