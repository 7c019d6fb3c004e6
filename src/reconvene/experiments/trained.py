"""Pruning after training: the dense network is trained first, cut, repaired and tuned; all epochs count.

The epochs of both parts together are those of every other arm. The dense part is the same for all of these arms of a
model, data, recipe and seed, so it is trained once and lies beside the runs until all of them are done.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from torch import nn

from reconvene.costs import listed_costs
from reconvene.criteria import CHANNEL_CRITERIA
from reconvene.data import Calibration, stratified_calibration
from reconvene.data.calibration import TRAINED_SAMPLES
from reconvene.experiments.context import SHARED, PreparedRun, Setting, apply_plan
from reconvene.experiments.options import epochs_of_dense
from reconvene.planning.feedback import plan_within
from reconvene.planning.session import Planner
from reconvene.structure import analyse
from reconvene.structure.copies import copy_model
from reconvene.training import Distillation, TrainResult, train_model

TRAINED_OPTIONS = {
    "criterion": "taylor",
    "rectify": "reconstruct",
    "dense_share": 0.5,
    "teacher": 0.5,
    "scratch": False,
}


def trained(setting: Setting) -> PreparedRun:
    """Our way with trained networks.

    ``dense_share``: of the epochs, before the cut; the others are the end of the schedule again (learning-rate
    rewinding). ``criterion``: of channels; ``random`` cuts channels at random. ``rectify``: a way of ``rc.rectify``.
    ``teacher``: share of the dense network's outputs in the loss of tuning. ``scratch``: the same widths instead, drawn
    anew, and trained for as many epochs as both parts have (Liu et al. 2019, 1810.05270).

    Raises:
        ExperimentError: the epochs leave none after the dense ones.
    """
    options = setting.options
    first = epochs_of_dense("trained", options, setting.epochs)
    dense, result = train_dense(setting, first)
    at_dense, data = replace(setting, model=dense), training_samples(setting)
    criterion = str(options["criterion"])
    planner = Planner(
        dense,
        setting.inputs,
        criterion,
        data if criterion in CHANNEL_CRITERIA else None,
        setting.seed,
        loss=setting.dataset.task.loss,
    )
    costs = setting.costs or listed_costs()
    plan = plan_within(planner, setting.asked, costs, round_to=setting.round_to, refine=False)
    if bool(options["scratch"]):
        return apply_plan(setting, plan, rectify="reinit")
    prepared = apply_plan(at_dense, plan, rectify=str(options["rectify"]), data=data)
    macs = float(setting.cost_model(analyse(setting.model, setting.inputs, trial=False)).dense["macs"])
    share, left = float(options["teacher"]), setting.epochs - first
    return replace(
        prepared,
        epochs=left,
        config=replace(setting.config, seed=setting.seed, tail=min(1.0, left / first)),
        distillation=Distillation(dense, weight=share) if share else None,
        earlier={"seconds": result.seconds, "epochs": float(first), "macs": macs},
    )


def train_dense(setting: Setting, epochs: int) -> tuple[nn.Module, TrainResult]:
    """The trained dense network, from where an earlier arm left it, or trained now."""
    dense = copy_model(setting.model)
    config = replace(setting.config, seed=setting.seed)
    folder = _shared_folder(setting, epochs)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # runs beside this one may need the same network
        result = train_model(dense, setting.dataset, epochs=epochs, directory=folder, config=config)
    return dense, result


def _shared_folder(setting: Setting, epochs: int) -> Path:
    """Where this dense network lies: beside the folder of the run."""
    shapes = {name: list(tensor.shape) for name, tensor in setting.model.state_dict().items()}
    conditions = [setting.seed, epochs, setting.config.identity(), setting.dataset.sha256, shapes, setting.source]
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
    return setting.folder.parent / SHARED / digest


def training_samples(setting: Setting) -> Calibration:
    """Training images, every class in its proportion."""
    return stratified_calibration(setting.dataset, TRAINED_SAMPLES, seed=setting.seed)
