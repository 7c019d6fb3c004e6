"""Surgery: the plan, the smaller network it makes, and the silenced reference that proves it."""

from reconvene.surgery.cut import Cut, PlanRow
from reconvene.surgery.plan import Plan, make_plan
from reconvene.surgery.provenance import Accounting, Provenance

__all__ = ["Accounting", "Cut", "Plan", "PlanRow", "Provenance", "make_plan"]
