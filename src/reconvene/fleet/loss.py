"""What a plan is predicted to lose: one number, for ranking plans before anything is trained."""

from __future__ import annotations

import numpy as np

from reconvene.surgery import Plan


def predicted_loss(plan: Plan) -> float:
    """Root of the mean squared loss of the plan's groups, in the evaluator's unit; 0 for a network left whole.

    The solver lowers the sum of the same squares. Between two budgets of one architecture it says which loses more.
    Between architectures it says which was cut deeper, not which was better to begin with: train to know.
    """
    losses = [row.loss for row in plan.rows if row.loss is not None]
    return float(np.sqrt(np.mean(np.square(losses)))) if losses else 0.0
