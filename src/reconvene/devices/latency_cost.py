"""Latency on a device, predicted from its profile, as a cost that budgets can limit."""

from __future__ import annotations

from reconvene.costs import CostFunction, Network
from reconvene.costs.latency import Latency
from reconvene.devices.predict import Predictor
from reconvene.devices.profile import Profile
from reconvene.devices.store import measuring_conditions
from reconvene.structure import Structure


class DeviceLatency(Latency):
    """Seconds of one forward pass on the device of ``profile``.

    The solver keeps ``Predictor.floor``, which never falls when a width grows; the prediction also has what widths that
    are no multiples of the device's step cost.
    """

    listed = True

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.condition = _condition(profile)

    def bind(self, structure: Structure, network: Network | None) -> CostFunction:
        """Seconds at any widths. Raises DeviceError for a layer that the profile does not know."""
        predictor = Predictor(structure, self.profile)
        return CostFunction(predictor.floor, predictor.seconds)


def _condition(profile: Profile) -> str:
    """Names the device; for this machine also whether its runtime has another version now."""
    now = measuring_conditions(profile.runtime["threads"], profile.precision)
    text = f"predicted for {profile.conditions}"
    if profile.device != now["device"] or profile.runtime == now["runtime"]:
        return text
    version = f"{profile.runtime['name']} {now['runtime']['version']}"
    return f"{text}. It is of this machine, which has {version} now: measure it again"
