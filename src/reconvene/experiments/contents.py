"""Data sets that have one name and other contents: results on the one say nothing about the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from reconvene.experiments.results import Record

_DIGITS = 8
"""Of a digest, shown beside the name of a data set."""


def data_names(records: Sequence[Record]) -> list[str]:
    """The data set of each record: its name, and where records of that name differ in contents, which contents.

    Records of early releases may hold no digest. They stand for themselves only where others show that there are
    several contents.
    """
    contents = _contents(records)
    return [
        _name(record) if len(contents[_choice(record)]) < 2 else f"{_name(record)} ({_shown(record)})"
        for record in records
    ]


def differing_contents(records: Sequence[Record]) -> str:
    """Which names stand for several data sets, as a sentence; empty where each stands for one."""
    several: dict[str, list[str]] = {}
    for record, name in zip(records, data_names(records), strict=True):
        if name != _name(record):
            several.setdefault(_name(record), []).append(_shown(record))
    return " ".join(
        f"{name!r} is the name of data with different contents ({', '.join(dict.fromkeys(shown))}): their results do "
        "not compare, and stand in tables of their own. Give other data another name."
        for name, shown in several.items()
    )


def earlier_contents(record: Record, earlier: Iterable[Record]) -> list[str]:
    """The commits of earlier records whose data had the same name and other contents."""
    others = (other for other in earlier if _choice(other) == _choice(record) and other.get("dataset_sha256"))
    return sorted({str(other.get("commit")) for other in others if _digest(other) != _digest(record)})


def _contents(records: Iterable[Record]) -> dict[str, set[str]]:
    """The digests there are of what was chosen of each name."""
    contents: dict[str, set[str]] = {}
    for record in records:
        known = contents.setdefault(_choice(record), set())
        if digest := _digest(record):
            known.add(digest)
    return contents


def _choice(record: Record) -> str:
    """What a digest depends on besides the data: how many images, in which shape, with which targets."""
    return json.dumps([record["run"].get(name) for name in ("data", "limit", "task", "input")])


def _name(record: Record) -> str:
    return str(record["run"]["data"])


def _digest(record: Record) -> str | None:
    return record.get("dataset_sha256")


def _shown(record: Record) -> str:
    digest = _digest(record)
    return f"sha256 {digest[:_DIGITS]}" if digest else "contents not recorded"
