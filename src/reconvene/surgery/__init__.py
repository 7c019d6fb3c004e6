"""Surgery: the plan, the smaller network it makes, and the silenced reference that proves it."""

from reconvene.surgery.plan import Plan, PlanRow, make_plan

__all__ = ["Plan", "PlanRow", "make_plan"]
