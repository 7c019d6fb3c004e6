"""Write the pages and tables of the documentation from the results on disk.

python benchmarks/pages                 # all
python benchmarks/pages qat coverage    # some
python benchmarks/pages --check         # change nothing; the exit code is 1 if one is old
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pages import PAGES  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"one of: {', '.join(PAGES)}")
    parser.add_argument("--check", action="store_true", help="change nothing; the exit code is 1 if a page is old")
    options = parser.parse_args()
    unknown = sorted({*options.pages} - {*PAGES})
    if unknown:
        parser.error(f"no page {', '.join(unknown)}; there are {', '.join(PAGES)}")
    old = [name for name in options.pages or PAGES if updated(name, write=not options.check)]
    for name in old:
        print(f"{name}: {'old' if options.check else 'written'}")
    return int(options.check and bool(old))


def updated(name: str, *, write: bool) -> bool:
    """Whether one page was old."""
    return bool(importlib.import_module(f"pages.{name}").update(write=write))


if __name__ == "__main__":
    sys.exit(main())
