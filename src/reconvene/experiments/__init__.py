"""Comparisons that anybody can run again: arms x models x data x budgets x seeds, one process a run, JSON lines."""

from reconvene.experiments.compare import ExperimentState, compare
from reconvene.experiments.config import Experiment, Run, make_experiment, read_experiment
from reconvene.experiments.methods import ARMS, Arm
from reconvene.experiments.results import read_results

__all__ = [
    "ARMS",
    "Arm",
    "Experiment",
    "ExperimentState",
    "Run",
    "compare",
    "make_experiment",
    "read_experiment",
    "read_results",
]
