"""Imported once by the server that forks a process for each model: pays for every import, and the first analysis."""

from __future__ import annotations

import gc

import architectures.imports  # noqa: F401
from architectures.proving import warm_up

warm_up()
gc.collect()
gc.freeze()  # a collection in a child would copy every page it shares with this process
