"""Units of costs: the only place that knows how an amount is read and printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reconvene.utils.numbers import NARROW, digits, format_count, memory, seconds

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_LARGE = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}
_PREFIXES = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}
_PREFIX_NAMES = {1e-12: "p", 1e-9: "n", 1e-6: "µ", 1e-3: "m", 1.0: "", 1e3: "k"}


@dataclass(frozen=True)
class Unit:
    """How amounts of one kind are read and printed.

    Attributes:
        factors: the amount of one of each unit, by the unit's name, in which small and large letters are equal; the
            name ``""`` lets a number stand alone.
        example: an amount as a person writes it, for error messages.
        text: an amount with all its digits, for terminals and logs.
        short: an amount with three digits, for pages.
        words: words that may follow a unit, in capitals: ``"250MMACs"`` is 250 M and the word ``MACS``.
        name: the unit's name behind an amount in a sentence, where ``text`` has none.
        axis: name of the unit on axes of plots where it is not what the cost counts, and the factor of amounts there.
    """

    factors: Mapping[str, float]
    example: str
    text: Callable[[float], str]
    short: Callable[[float], str]
    words: tuple[str, ...] = ("",)
    name: str = ""
    axis: tuple[str, float] = ("", 1.0)

    def factor(self, name: str) -> float | None:
        """The amount of one ``name``; ``None`` where there is no such unit.

        >>> BYTES.factor("kib")
        1024
        """
        factors, name = {unit.upper(): factor for unit, factor in self.factors.items()}, name.upper()
        for word in self.words:
            prefix = name[: len(name) - len(word)].strip()
            if name.endswith(word) and prefix in factors:
                return factors[prefix]
        return None

    @property
    def names(self) -> str:
        """The units in a sentence.

        >>> SECONDS.names
        'ns, us, µs, ms, s'
        """
        return ", ".join(name for name in self.factors if name)

    def phrase(self, value: float) -> str:
        """An amount in a sentence: ``900 bytes``."""
        return f"{self.text(value)} {self.name}".strip()

    @property
    def bare(self) -> bool:
        """Whether a number without a unit is an amount."""
        return "" in self.factors


def metric_unit(symbol: str, name: str) -> Unit:
    """A unit with metric prefixes from pico to kilo: ``metric_unit("J", "joules")`` reads ``"3mJ"``.

    Args:
        symbol: the symbol of the unit.
        name: its plural, for axes of plots.
    """
    factors = {prefix + symbol: factor for prefix, factor in _PREFIXES.items()}

    def scaled(value: float) -> tuple[float, str]:
        fitting = [size for size in _PREFIX_NAMES if abs(value) >= size] or [min(_PREFIX_NAMES)]
        return value / max(fitting), _PREFIX_NAMES[max(fitting)] + symbol

    def text(value: float) -> str:
        number, unit = scaled(value)
        return f"{number:.4g} {unit}"

    def short(value: float) -> str:
        number, unit = scaled(value)
        return f"{digits(number)}{NARROW}{unit}"

    return Unit(factors, f"'3m{symbol}'", text, short, axis=(name, 1.0))


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _large(value: float) -> str:
    letter, size = next(((name, size) for name, size in _LARGE.items() if value >= size), ("", 1.0))
    return f"{value / size:.4g} {letter}".strip()


COUNT = Unit(_COUNTS, "'1.5M'", _whole, format_count, ("", "PARAMS", "PARAMETERS"))
BITS = Unit(_COUNTS, "'145504'", _whole, lambda value: f"{format_count(value)} bits", ("", "BITS", "BIT"), name="bits")
CYCLES = Unit(_COUNTS, "'1.2M'", _whole, format_count, ("", "CYCLES", "CYCLE"), name="cycles")
MACS = Unit(_COUNTS, "'250MMACs'", _whole, lambda value: f"{format_count(value)} MACs", ("", "MACS", "MAC"))
FLOPS = Unit(_COUNTS, "'2GFLOPs'", _large, lambda value: f"{format_count(value)}FLOPs", ("", "FLOPS", "FLOP"))
BYTES = Unit(_BYTES, "'256KiB'", _whole, memory, name="bytes")
SECONDS = Unit(_SECONDS, "'5ms'", lambda value: f"{value * 1e3:.4g} ms", seconds, axis=("milliseconds", 1e3))
