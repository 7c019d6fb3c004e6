"""The evaluator: what each group can afford to lose, one curve per group (PSE, Pruning Sensitivity Evaluator)."""

from __future__ import annotations

from reconvene.evaluator.curves import Curve, Pinned, Sensitivity, SensitivityRow
from reconvene.evaluator.evaluators import EVALUATORS, Evaluator, evaluate_groups

__all__ = ["EVALUATORS", "Curve", "Evaluator", "Pinned", "Sensitivity", "SensitivityRow", "evaluate_groups"]
