"""Structure.

What is coupled with what in any architecture, found by recording one run and proved by replaying it smaller.
"""

from reconvene.structure.analysis import Keep, Structure, analyse
from reconvene.structure.groups import Balance, Group, Groups, Slot
from reconvene.structure.inputs import arguments, call, map_tensors, tensors_in
from reconvene.structure.rules import rule

__all__ = [
    "Balance",
    "Group",
    "Groups",
    "Keep",
    "Slot",
    "Structure",
    "analyse",
    "arguments",
    "call",
    "map_tensors",
    "rule",
    "tensors_in",
]
