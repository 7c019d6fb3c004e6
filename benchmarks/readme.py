"""Put what runs printed into the README, between its markers: numbers there are generated, never typed.

reconvene run > benchmarks/results/readme_digits.txt       # and --json into readme_digits.json, for the picture
python benchmarks/formats.py --again    # on an idle machine; make formats does it all
python benchmarks/readme.py            # writes; --check only compares
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
MARKED = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def generated(text: str) -> str:
    """The README with every marked block replaced by the output on disk."""
    return MARKED.sub(lambda match: block(match[1]), text)


def block(name: str) -> str:
    """One marked block."""
    path = ROOT / "benchmarks" / "results" / f"readme_{name}.txt"
    printed = path.read_text(encoding="utf-8").strip() if path.exists() else "not measured yet"
    return f"<!-- generated: {name} -->\n```\n{printed}\n```\n<!-- end -->"


def main() -> int:
    """Write the README, or with ``--check`` say whether it is as generated."""
    text = README.read_text(encoding="utf-8")
    new = generated(text)
    if "--check" in sys.argv[1:]:
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
