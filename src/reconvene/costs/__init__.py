"""Costs: what a network is charged for, how amounts are written, and the budgets that limit them.

Importing this package does not import torch, since the command line builds its options from it.
"""

from __future__ import annotations

from reconvene.costs.base import Cost, CostFunction, Network, SumOfProducts
from reconvene.costs.budget import Budget, BudgetValue, Limit, read_budget
from reconvene.costs.cost_file import CostFile, cost_file, targets
from reconvene.costs.registry import COSTS, cost_named, label_of, listed_costs, short_text, text_of
from reconvene.costs.unit import Unit, metric_unit

__all__ = [
    "COSTS",
    "Budget",
    "BudgetValue",
    "Cost",
    "CostFile",
    "CostFunction",
    "Limit",
    "Network",
    "SumOfProducts",
    "Unit",
    "cost_file",
    "cost_named",
    "label_of",
    "listed_costs",
    "metric_unit",
    "read_budget",
    "short_text",
    "targets",
    "text_of",
]
