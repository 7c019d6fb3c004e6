"""Synaptic operations of a trained spiking network: in the artifact, the command line, reports and comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest

import reconvene as rc
from reconvene import artifact
from reconvene.costs.synops import Synops, count_synops
from reconvene.data import load_data
from reconvene.experiments import make_experiment
from reconvene.experiments.summary import summarise
from reconvene.experiments.worker import execute_run
from support.cli_calls import answer

SPIKING = ["snn_vgg", "--model-arg", "width=0.0625", "--model-arg", "in_channels=1", "--input", "1x16x16"]
FAST = ["--limit", "40", "--epochs", "1", "--batch-size", "20", "--precision", "fp32"]


def test_evaluation_counts_synaptic_operations_for_the_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    answer(capfd, "prune", *SPIKING, "--params", "2x", "-o", str(folder))
    answer(capfd, "train", str(folder), *FAST)
    counted = answer(capfd, "evaluate", str(folder), "--limit", "40")["synops"]["pruned"]
    data = load_data("digits", input_shape=(1, 16, 16), limit=40)
    images = data.normalise(data.test.images)
    exact = count_synops(rc.load(folder), [images], images[:2])
    assert counted == exact.to_dict() and exact.ac > 0 and 0 < exact.spike_rate < 1
    assert artifact.Artifact.open(folder).synops["pruned"] == Synops.from_dict(counted) == exact
    page = rc.report(folder).read_text()
    assert "Synaptic operations" in page and f"{exact.layers[0].mac:,.0f}" in page
    answer(capfd, "train", str(folder), *FAST, "--again")
    assert not artifact.Artifact.open(folder).synops, "of weights that are others now"
    assert "Synaptic operations" not in rc.report(folder).read_text()


def test_comparisons_set_synaptic_operations_beside_the_dense_network(tmp_path: Path) -> None:
    model = {"model": "snn_vgg", "args": {"width": 0.0625, "in_channels": 1}, "input": [1, 16, 16]}
    experiment = make_experiment(
        {
            **{"epochs": 1, "latency": False, "train": {"batch_size": 20, "precision": "fp32"}, "models": [model]},
            **{"data": [{"name": "digits", "spec": "digits", "limit": 40}], "budgets": [{"params": "2x"}]},
            "arms": [{"arm": "dense"}, {"arm": "uniform"}],
        }
    )
    dense, uniform = (execute_run(run, tmp_path / run.key, data="digits") for run in experiment.runs)
    whole, small = summarise([dense, uniform])
    counts = {name: Synops.from_dict(record["synops"]) for name, record in (("dense", dense), ("small", uniform))}
    assert small.extra["SynOps"].value == pytest.approx(100 * counts["small"].operations / counts["dense"].operations)
    assert whole.extra["SynOps"].value == 100 and 0 < small.extra["SynOps"].value < 100
    assert small.extra["spike rate"].value == pytest.approx(100 * counts["small"].spike_rate)
