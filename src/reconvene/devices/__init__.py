"""Devices: what layers cost on them, measured, and what networks will cost, predicted."""

from __future__ import annotations

from reconvene.devices.bundle import write_probe_bundle
from reconvene.devices.grid import general
from reconvene.devices.memory import ActivationPolicy, Held
from reconvene.devices.on_device.probe import reference
from reconvene.devices.predict import ChannelCounts, Predictor, SiteTime
from reconvene.devices.profile import Profile
from reconvene.devices.runtime_layers import jobs, sites
from reconvene.devices.stopwatch import Stopwatch
from reconvene.devices.store import HERE, find, here, measure_device, measuring_conditions, profiles, save_profile

__all__ = [
    "HERE",
    "ActivationPolicy",
    "ChannelCounts",
    "Held",
    "Predictor",
    "Profile",
    "SiteTime",
    "Stopwatch",
    "find",
    "general",
    "here",
    "jobs",
    "measure_device",
    "measuring_conditions",
    "profiles",
    "reference",
    "save_profile",
    "sites",
    "write_probe_bundle",
]
