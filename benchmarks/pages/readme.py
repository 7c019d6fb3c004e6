"""Put what runs printed into the README, between its markers: numbers there are generated, never typed.

reconvene run > benchmarks/results/readme_digits.txt
python benchmarks/formats.py --again    # on an idle machine; make formats does it all
python benchmarks/pages readme
"""

from __future__ import annotations

import re
from pathlib import Path

from rows import read_rows

from pages.generated_part import update_files
from reconvene.experiments.plot import Dot, scatter_svg

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "plots" / "readme.svg"
ZOO = ROOT / "benchmarks" / "results" / "zoo.jsonl"
NETWORKS = re.compile(r"\d+(?= networks of torchvision)")
MARKED = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def generated(text: str) -> str:
    """The README with every marked block replaced by the output on disk, and the number of networks of the sweep."""
    swept = len({row["name"] for row in read_rows(ZOO)})
    return NETWORKS.sub(str(swept), MARKED.sub(lambda match: block(match[1]), text))


def block(name: str) -> str:
    """One marked block."""
    path = ROOT / "benchmarks" / "results" / f"readme_{name}.txt"
    printed = path.read_text(encoding="utf-8").strip() if path.exists() else "not measured yet"
    return f"<!-- generated: {name} -->\n```\n{printed}\n```\n<!-- end -->"


def picture(printed: str) -> str:
    """Accuracy against latency, as the demo printed them: dense and pruned, in float32, and in int8 where all agree.

    Where int8 gives every test image the class of float32 (agreement 100.00%), its accuracy is the same.
    """
    rows = {cells[0].lower(): cells[1:3] for line in printed.splitlines() if len(cells := re.split(r"  +", line)) > 2}
    accuracy = [float(text.rstrip("%")) for text in rows["accuracy"]]
    agreement = rows.get("int8 agreement", ["", ""])
    dots = []
    for number, variant in enumerate(("dense", "pruned")):
        series = {"float32": ("latency", "file size")}
        if agreement[number] == "100.00%":
            series["int8"] = ("int8 latency", "int8 file size")
        for precision, (latency, size) in series.items():
            milliseconds = _milliseconds((rows.get(f"onnx runtime {latency}") or rows[latency])[number])
            text = f"{variant} in {precision}: {milliseconds:g} ms, {accuracy[number]} %, {rows[size][number]}"
            dots.append(Dot(milliseconds, accuracy[number], f"{variant}, {precision}, {rows[size][number]}", text))
    title = f"{printed.split()[0]} on digits: accuracy against latency"
    return scatter_svg(title, dots, x="ONNX Runtime latency, ms (one thread, batch 1)", y="test accuracy, %")


def _milliseconds(text: str) -> float:
    number, unit = text.replace("\u202f", " ").split()
    return float(number) * {"ms": 1.0, "µs": 1e-3, "s": 1e3}[unit]


def update(*, write: bool = True) -> bool:
    """Write the README and its picture; returns whether one was old."""
    digits = (ROOT / "benchmarks" / "results" / "readme_digits.txt").read_text(encoding="utf-8")
    return update_files({README: generated(README.read_text(encoding="utf-8")), PICTURE: picture(digits)}, write=write)
