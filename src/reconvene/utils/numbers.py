"""Numbers as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

MINUS, TIMES, NARROW = "−", "×", "\u202f"


def format_count(value: float) -> str:
    """Three digits and a letter: ``908 k``, ``14.7 M``; whole numbers below ten thousand."""
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    for letter, size in (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)):
        if abs(value) < 999.5 * size or letter == "T":
            return f"{digits(value / size)}{NARROW}{letter}"
    raise AssertionError("T takes everything")


def memory(value: float) -> str:
    """Bytes: ``812 B``, ``256 KiB``, ``3.46 MiB``."""
    for unit, size in (("B", 1), ("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30)):
        if abs(value) < 999.5 * size or unit == "GiB":
            return f"{f'{value:.0f}' if size == 1 else digits(value / size)}{NARROW}{unit}"
    raise AssertionError("GiB takes everything")


def seconds(value: float) -> str:
    """A duration: ``850 µs``, ``4.21 ms``, ``2.9 s``, ``3 min 20 s``."""
    if value < 1e-3:
        return f"{digits(value * 1e6)}{NARROW}µs"
    if value < 1:
        return f"{digits(value * 1e3)}{NARROW}ms"
    if value < 100:
        return f"{value:.1f}{NARROW}s"
    return f"{int(value // 60)}{NARROW}min {int(value % 60)}{NARROW}s"


def digits(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    # of the rounded value: 0.9996 is 1.00, not 1.000
    places = max(0, 2 - math.floor(math.log10(abs(float(f"{value:.3g}")))))
    return f"{value:,.{min(places, 6)}f}"


def ratio(value: float) -> str:
    """``16.21×``; a whole number from a hundred on."""
    return f"{value:,.0f}{TIMES}" if value >= 100 else f"{value:.2f}{TIMES}"


def share(value: float, places: int = 1) -> str:
    """A share as a percentage: ``97.3 %``."""
    return f"{value * 100:.{places}f}{NARROW}%"


def moment(text: str) -> str:
    """An ISO 8601 time for people, ``2026-11-21 09:06 UTC``; any other text as it is."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if when.tzinfo else text


def points(difference: float) -> str:
    """A difference of shares: ``−0.5 points``."""
    value = f"{abs(difference) * 100:.1f}"
    sign = "±" if float(value) == 0 else "+" if difference > 0 else MINUS
    return f"{sign}{value} points"


def plural(count: int, noun: str) -> str:
    """``1 epoch``, ``3 epochs``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def distinct(value: float, limit: float, *, digits: int = 1) -> tuple[str, str]:
    """Both numbers with ``digits`` decimals, or as many more as it takes to tell them apart."""
    for decimals in range(digits, 16):
        texts = f"{value:.{decimals}f}", f"{limit:.{decimals}f}"
        if value == limit or texts[0] != texts[1]:
            return texts
    return repr(value), repr(limit)
