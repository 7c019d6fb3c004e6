"""Safety of trained classifiers: membership inference, adversarial pictures, planted triggers; on files as well."""

from reconvene.safety.adversarial import ATTACKS, Attack
from reconvene.safety.judge import batched, judge_networks
from reconvene.safety.membership import Membership, membership
from reconvene.safety.result import Safety, Trigger, safety_table, safety_warnings
from reconvene.safety.trigger import Answers, Patch, Search, find_patch

__all__ = [
    "ATTACKS",
    "Answers",
    "Attack",
    "Membership",
    "Patch",
    "Safety",
    "Search",
    "Trigger",
    "batched",
    "find_patch",
    "judge_networks",
    "membership",
    "safety_table",
    "safety_warnings",
]
