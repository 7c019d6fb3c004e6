"""Times to believe on a machine that others share: read again, later, until two calm readings agree."""

from __future__ import annotations

import time
from collections.abc import Callable

from reconvene.devices.on_device.sessions import Pace

# Two readings of one network that are nearer than this agree.
AGREE = 1.03


class Stopwatch:
    """Takes readings until they can be believed, with so many seconds of ``patience`` for all networks together.

    A reading is calm where the device was at its best pace right before it and right after. ``unsettled`` counts the
    networks for which patience ran out before two calm readings agreed.
    """

    def __init__(self, pace: Pace, patience: float = 90.0) -> None:
        self._pace, self._patience = pace, patience
        self.unsettled = 0

    def time(self, read: Callable[[], float]) -> float:
        """Seconds that ``read`` finds: the mean of two calm readings that agree; if none do, the least of all."""
        calm: list[float] = []
        others: list[float] = []
        while True:
            self._patience -= self._pace.wait(self._patience)
            begin = time.perf_counter()
            seconds = read()
            (others if self._pace.disturbed() else calm).append(seconds)
            calm.sort()
            if len(calm) > 1 and calm[1] <= AGREE * calm[0]:
                return (calm[0] + calm[1]) / 2
            if len(calm) + len(others) > 1:  # two readings it takes in any case
                self._patience -= time.perf_counter() - begin
                if self._patience <= 0:
                    self.unsettled += 1
                    return min([*calm, *others])

    def close(self) -> None:
        """Remove what it left on the disk."""
        self._pace.close()
