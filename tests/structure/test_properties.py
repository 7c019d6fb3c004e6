"""What is promised for every network, held on random ones (``random_nets``).

``make test`` tries a fixed handful, ``make fuzz`` thousands of new ones. A network that once failed is kept, small and
with its mechanism in the name, in ``test_regressions``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from reconvene.errors import ReconveneError
from support.promises import hold, hold_budget
from support.random_nets import Spec, specs

_COMMON = settings(deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck))
settings.register_profile("test", _COMMON, max_examples=30, phases=[Phase.explicit, Phase.generate])
settings.register_profile("fuzz", _COMMON, max_examples=250)
PROFILE = os.environ.get("RECONVENE_PROPERTIES", "test")
FIRST_SEED = int(os.environ.get("RECONVENE_FUZZ_SEED", "0"))
SHARDS = {"test": 2, "fuzz": 20}[PROFILE]
"""Each shard is a test of its own with its own seed, so that processes share the work."""
_SHARES = st.integers(5, 98).map(lambda percent: 1 - percent / 100)
"""Budgets as shares of the dense cost: most can be kept, and some are below the floor of a small network."""
chosen = settings.get_profile(PROFILE)


@pytest.mark.parametrize("shard", range(FIRST_SEED, FIRST_SEED + SHARDS))
def test_a_random_network_keeps_every_promise(shard: int) -> None:
    @seed(shard)
    @settings(chosen)
    @given(specs(), st.integers(0, 2**16))
    def promise(spec: Spec, choice: int) -> None:
        with refusals_of(spec):
            hold(spec, choice)

    promise()


@pytest.mark.parametrize("shard", range(FIRST_SEED, FIRST_SEED + SHARDS))
def test_a_plan_keeps_its_budget_or_names_the_floor(shard: int) -> None:
    @seed(shard)
    @settings(chosen, max_examples=chosen.max_examples // 3)
    @given(
        specs(longest=3),
        st.sampled_from(["random", "magnitude", "synflow", "default"]),
        st.dictionaries(st.sampled_from(["params", "macs", "peak_memory", "size"]), _SHARES, min_size=1, max_size=2),
        st.sampled_from([1, 2, 8]),
    )
    def promise(spec: Spec, criterion: str, shares: dict[str, float], round_to: int) -> None:
        with refusals_of(spec):
            hold_budget(spec, criterion, shares, round_to)

    promise()


@contextlib.contextmanager
def refusals_of(spec: Spec) -> Iterator[None]:
    """A network that looks at values or widths may be refused, by a named error; no other may."""
    try:
        yield
    except ReconveneError:
        if not spec.looks_at_values:
            raise
