"""Compiled files are held against the budget of their plan; the compiler is in ``tests/planning/test_npu.py``."""

from __future__ import annotations

from reconvene.workflow.compiling import exceeded


def test_every_limit_that_a_compiled_file_breaks_is_reported() -> None:
    (warning,) = exceeded({"cycles": 4_150_788, "sram": 100, "flash": 7}, {"cycles": 3_649_778, "sram": 100})
    assert warning.startswith("warning: 4,150,788 cycles are over the budget of 3,649,778")
    assert "a limit 12% lower" in warning
    assert not exceeded({"cycles": 5}, {"cycles": 5.0})
