"""Times on a machine that others share: what counts is what was read while it was at its best pace, twice alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from reconvene import devices
from reconvene.devices import stopwatch
from reconvene.devices.on_device import sessions
from reconvene.devices.on_device.sessions import SLOW

Read = Callable[[], float]


class Machine:
    """A machine whose pace is 1.0 at its best, and slower as long as ``slow`` says; every look at it takes a second."""

    def __init__(self, slow: Iterator[float]) -> None:
        self.slow, self.now, self.looks = slow, 0.0, 0

    def clock(self) -> float:
        return self.now

    def look(self) -> float:
        self.now, self.looks = self.now + 1.0, self.looks + 1
        return next(self.slow)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], tuple[devices.Stopwatch, Machine]]:
    def made(slow: list[float], patience: float = 20.0) -> tuple[devices.Stopwatch, Machine]:
        def paces() -> Iterator[float]:
            yield from slow
            while True:
                yield slow[-1]

        own = Machine(paces())
        pace = sessions.Pace.__new__(sessions.Pace)
        pace.best, pace.last = 1.0, 0.0

        def now() -> float:
            pace.last = own.look()
            return pace.last

        monkeypatch.setattr(pace, "now", now)
        for module in (sessions, stopwatch):
            monkeypatch.setattr(module.time, "perf_counter", own.clock)
        return devices.Stopwatch(pace, patience), own

    return made


def readings(*values: float) -> Read:
    left = iter(values)
    return lambda: next(left)


def test_on_a_calm_machine_two_readings_that_agree_are_enough(machine: Callable[..., tuple]) -> None:
    watch, _ = machine([1.0])
    assert watch.time(readings(5.0, 5.1)) == pytest.approx(5.05) and watch.unsettled == 0


def test_readings_that_do_not_agree_are_read_again(machine: Callable[..., tuple]) -> None:
    watch, _ = machine([1.0])
    assert watch.time(readings(6.0, 5.0, 9.0, 5.02)) == pytest.approx(5.01) and watch.unsettled == 0


def test_what_was_read_while_the_machine_slowed_down_does_not_count(machine: Callable[..., tuple]) -> None:
    # Before and after: calm, slow (the first reading is void though it is the least), then at its best again.
    watch, _ = machine([1.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    assert watch.time(readings(1.0, 5.0, 5.0)) == 5.0 and watch.unsettled == 0


def test_a_slow_machine_is_waited_for_by_working(machine: Callable[..., tuple]) -> None:
    watch, own = machine([2.0] * 7 + [1.0])
    assert watch.time(readings(5.0, 5.0)) == 5.0 and watch.unsettled == 0
    assert own.looks == 8 + 1 + 2, "seven looks found it slow, and each reading stands between two that did not"


def test_waiting_ends_with_a_note(machine: Callable[..., tuple]) -> None:
    watch, own = machine([1.4])
    assert watch.time(readings(7.0, 6.0, 6.5)) == 6.0 and watch.unsettled == 1
    spent = own.now
    assert watch.time(readings(9.0, 8.0)) == 8.0 and watch.unsettled == 2, "two readings it takes in any case"
    assert own.now - spent < 10, "and the next network is not waited for all over again"


def test_a_real_pace_is_waited_for_no_longer_than_asked() -> None:
    pace = devices.reference(1, best=1e-9)  # nothing is ever so fast
    with closing(devices.Stopwatch(pace, patience=0.05)) as watch:
        assert watch.time(readings(3.0, 2.0)) == 2.0 and watch.unsettled == 1
    pace.best = float("inf")
    assert pace.now() == pace.best and not pace.last > SLOW * pace.best
