"""Devices: what layers cost on them, measured, and what networks will cost, predicted."""

from __future__ import annotations

from reconvene.devices.bundle import write_bundle
from reconvene.devices.grid import general
from reconvene.devices.memory import ActivationPolicy, Held
from reconvene.devices.on_device.probe import reference
from reconvene.devices.predict import Channels, Predictor, SiteTime
from reconvene.devices.profile import Profile
from reconvene.devices.runtime_layers import jobs, sites
from reconvene.devices.stopwatch import Stopwatch
from reconvene.devices.store import HERE, conditions, find, here, measure, profiles, save

__all__ = [
    "HERE",
    "ActivationPolicy",
    "Channels",
    "Held",
    "Predictor",
    "Profile",
    "SiteTime",
    "Stopwatch",
    "conditions",
    "find",
    "general",
    "here",
    "jobs",
    "measure",
    "profiles",
    "reference",
    "save",
    "sites",
    "write_bundle",
]
