"""Imported once by the server that forks a process for each model: pays for every import, and the first analysis."""

from __future__ import annotations

import architectures.imports  # noqa: F401
from architectures.proving import warm_up

warm_up()
