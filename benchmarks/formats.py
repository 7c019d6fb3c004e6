"""Every installed format of the demo's model: verified in float32 and int8, timed on one thread, for the README.

python benchmarks/formats.py                   # makes the demo where it is not there yet, then only prints
python benchmarks/formats.py --again           # measures anew, and keeps the results
python benchmarks/formats.py --again --only litert    # one runtime, in its own environment; the others' lines stay
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from reconvene.costs import Budget
from reconvene.data import Dataset, load_data, test_batches
from reconvene.deploy import FORMATS, Runtime, export, installed
from reconvene.errors import ExportError, VerificationError
from reconvene.models import resolve_address
from reconvene.utils.tables import text_table
from reconvene.workflow import Int8, bench, run
from reconvene.workflow.deploy import calibration_of
from reconvene.workflow.variants import variants

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "formats.jsonl"
PRINTED = RESULTS.with_name("readme_formats.txt")
DEMO = ROOT / "out" / "vgg16_bn"
SHAPE = (3, 32, 32)


def main() -> None:
    """Measure what was asked for, keep it, and print the table of all that is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="measure, and replace the results of the same runtimes")
    parser.add_argument("--only", action="append", help="a runtime; as often as needed")
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    kept = (
        {row["runtime"]: row for row in map(json.loads, RESULTS.read_text().splitlines())} if RESULTS.exists() else {}
    )
    if options.again:
        names = options.only or [name for name in installed() if name != "eager"]
        digits = load_data("digits", input_shape=SHAPE)
        source = resolve_address("vgg16_bn", input_shape=SHAPE).with_classes(10)
        run(source, DEMO, data=digits, budget=Budget(params="16.21x"), int8=Int8())
        for runtime in (runtime for runtime in FORMATS.values() if runtime.name in names):
            kept[runtime.name] = measured(runtime, digits, options.repeats)
            RESULTS.write_text("".join(json.dumps(kept[name]) + "\n" for name in sorted(kept)))
        PRINTED.write_text(printed([kept[name] for name in sorted(kept)]) + "\n")
    print(printed([kept[name] for name in sorted(kept)]))


def measured(runtime: Runtime, digits: Dataset, repeats: int) -> dict[str, Any]:
    """One runtime: whether each precision keeps its limits on the test images, and how fast every variant is."""
    model = variants(DEMO, allow_import=False)["pruned"]
    images = calibration_of(digits, 256, seed=0)
    checked: dict[str, Any] = {}
    for precision, more in (("fp32", {}), ("int8", {"quantize": "int8", "calibration": images})):
        try:
            data = test_batches(digits, batch_size=32)
            made = export(model, DEMO / "formats", format=str(runtime.file_format), data=data, **more)
            checked[precision] = {"bytes": made.bytes, "verification": made.verification.to_dict()}
        except (ExportError, VerificationError) as error:
            checked[precision] = {"error": str(error)}
    timed = bench(DEMO, runtimes=(runtime.name,), int8=Int8(), data=digits, repeats=repeats)
    return {"runtime": runtime.name, "format": runtime.file_format, "checked": checked, "bench": timed.to_dict()}


def printed(kept: list[dict[str, Any]]) -> str:
    """The table, and what it was measured on."""
    rows = []
    for entry in kept:
        times = {(row["variant"], row["precision"]): row for row in entry["bench"]["rows"]}
        ms = [f"{times[key]['median'] * 1e3:.2f}" if key in times else "-" for key in KEYS]
        found = entry["checked"]["int8"].get("verification")
        int8 = f"{found['agreement']:.1%}, {found['sqnr']:.0f} dB" if found else "refused"
        error = entry["checked"]["fp32"].get("verification")
        fp32 = f"{error['max_rel_error']:.0e}" if error else "refused"
        rows.append([entry["format"], fp32, int8, *ms])
    header = ["format", "fp32 error", "int8 agreement, SQNR", "dense fp32", "dense int8", "pruned fp32", "pruned int8"]
    versions = {name: version for entry in kept for name, version in entry["bench"]["versions"].items()}
    notes = [
        "milliseconds of one inference, one thread, median of thread time; VGG-16 dense and 16.21x smaller, digits",
        *dict.fromkeys(f"{entry['bench']['machine']['processor']}, {entry['bench']['date'][:10]}" for entry in kept),
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    ]
    return text_table(header, rows, right=range(1, 7), foot=["", *notes])


KEYS = [(variant, precision) for variant in ("dense", "pruned") for precision in ("fp32", "int8")]


if __name__ == "__main__":
    main()
