"""What an experiment cannot do is refused before a run begins, with the line of its file and what to try."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reconvene.cli import main
from reconvene.errors import ExperimentError
from reconvene.experiments import ARMS, compare, make_experiment, read_experiment
from reconvene.experiments.config import Run
from support.paths import BENCHMARKS

BUDGETS = '[[budgets]]\nparams = "2x"\n'
ARM = '[[arms]]\narm = "dense"\n'
MODEL = '[[models]]\nmodel = "resnet8"\n'
DIGITS = '[[data]]\nname = "digits"\nspec = "digits"\n'
EXPERIMENT = MODEL + DIGITS + BUDGETS + ARM


def arm(line: str, epochs: int = 10) -> str:
    """An experiment of one arm: of ``name; option``, the option is line 12."""
    name, _, options = line.partition("; ")
    return f'epochs = {epochs}\n{MODEL}{DIGITS}{BUDGETS}\n[[arms]]\narm = "{name}"\n{options}\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (EXPERIMENT.replace("resnet8", "resnet9"), r"line 2: unknown model 'resnet9'. Did you mean 'resnet8'"),
        (EXPERIMENT.replace("resnet8", "torchvision:resnet19"), r"line 2: unknown torchvision model.*'resnet19'"),
        (EXPERIMENT.replace("resnet8", "nets.py:make"), r"line 2: nets.py:make is a model of your own"),
        (MODEL + "args = { widht = 0.5 }\n" + DIGITS + ARM, r"line 3: resnet8 cannot be built: .*'widht'"),
        (MODEL + "args = { width = 'half' }\n" + DIGITS + ARM, r"line 3: .*args.width: expected a number"),
        (MODEL + "args = { num_classes = 2.5 }\n" + DIGITS + ARM, r"line 3: .*args.num_classes: expected a whole"),
        (MODEL + "input = [2, 32, 32]\n" + DIGITS + ARM, r"line 3: input 2x32x32 is no shape of images"),
        ('device = "nope"\n' + EXPERIMENT, r"line 1: no device is called 'nope'"),
        ('device = "nope.json"\n' + EXPERIMENT, r"line 1: .*nope.json"),
        (arm("ours; criterion = 'synflwo'"), r"line 12: .*'synflwo' is none of.*synflow"),
        (arm("ours; criterion = 'taylor'"), r"line 12: .*'taylor' is none of"),
        (arm("ours; evaluator = 'bogus'"), r"line 12: .*evaluator: 'bogus' is none of .*density"),
        (arm("ours; evaluator = 'removed_loss'"), r"line 12: .*'removed_loss' is none of"),
        (arm("ours; rectify = ['keep', 'bogus']"), r"line 12: .*'bogus' is none of"),
        (arm("uniform; rectify = 'reconstruct'"), r"line 12: .*'reconstruct' is none of"),
        (arm("unstructured; layerwise = 'xx'"), r"line 12: .*layerwise: 'xx' is none of .*erk"),
        (arm("resilient; share = -1.0"), r"line 12: .*share: expected more than 0, got -1"),
        (arm("cut; group = 'stem.0'\nshare = 1.5"), r"line 13: .*share: expected at most 1, got 1.5"),
        (arm("cut"), r"arm 'cut' needs the name of the group"),
        (arm("trained; dense_share = 1.5"), r"line 12: .*dense_share: expected less than 1, got 1.5"),
        (arm("trained; teacher = 7.5"), r"line 12: .*teacher: expected at most 1, got 7.5"),
        (arm("trained; criterion = 'snip'"), r"line 12: .*'snip' is none of"),
        (arm("trained", epochs=1), r"entry 1 of arms: trained: 1 epochs leave none after 1 dense"),
        (arm("torch_pruning; dense_share = 0.99", epochs=5), r"torch_pruning: 5 epochs leave none after 5 dense"),
        (arm("nas; population = 0"), r"line 12: .*population: expected more than 3, got 0"),
        (arm("nas; generations = 0"), r"line 12: .*generations: expected at least 1, got 0"),
        (arm("joint_bits", epochs=2), r"entry 1 of arms: 2 epochs leave 0 for the dense network, with tune=8"),
        (arm("searched_bits; tune = 2"), r"tune=2 leaves no epochs to search. Give 3"),
        (arm("uniform_bits; bits = 3"), r"line 12: .*bits: expected 2, 4 or 8, got 3"),
    ],
)
def test_an_invalid_value_is_reported_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(text)
    with pytest.raises(ExperimentError, match=rf"(?s)e\.toml, .*{says}"):
        read_experiment(file)


@pytest.mark.parametrize("name", ARMS)
def test_every_option_of_an_arm_may_have_its_usual_value(name: str, tmp_path: Path) -> None:
    options = {**ARMS[name].options, **({"group": "stem.0"} if name == "cut" else {})}
    values = {
        "epochs": 10,
        "models": [{"model": "resnet8", "args": {"width": 1}}],
        "data": [{"name": "digits", "spec": "digits"}],
        "budgets": [{"params": "2x"}],
        "arms": [{"arm": name, **options}],
    }
    (run,) = make_experiment(values).runs
    assert run.options == options


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "ours; criterion = ['synflow', 'snip']",
            "criterion 'snip' changes nothing: evaluator 'fan_in' reads no scores",
        ),
        ("ours; criterion = 'snip'\nrectify = 'everywhere'", "Add evaluator = 'density' or rectify = 'keep'"),
        ("trained; scratch = true\nteacher = 0.0", "teacher = 0.0 changes nothing with scratch"),
        ("trained; scratch = [true, false]\nrectify = 'keep'", "rectify = 'keep' changes nothing with scratch"),
    ],
)
def test_an_option_that_changes_nothing_is_no_other_method(line: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(arm(line))
    with pytest.raises(ExperimentError, match=rf"e\.toml, line 1\d: entry 1 of arms: .*{says}"):
        read_experiment(file)
    for other in ("evaluator = 'density'", "rectify = 'keep'", "criterion = 'synflow'"):
        criterion = "" if other.startswith("criterion") else "criterion = ['snip', 'random']\n"
        file.write_text(arm(f"ours; {criterion}{other}"))
        assert read_experiment(file).runs


def test_an_arm_that_no_budget_is_for_is_named_where_it_is_all_there_is(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(EXPERIMENT.replace("params", "macs").replace('"dense"', '"unstructured"'))
    with pytest.raises(ExperimentError, match=r"line 8: .*arm 'unstructured' keeps a budget on params, and no"):
        read_experiment(file)


def test_data_that_are_not_there_are_named_before_a_run_begins(tmp_path: Path, capsys) -> None:
    file, results = tmp_path / "e.toml", tmp_path / "r.jsonl"
    file.write_text(EXPERIMENT.replace('spec = "digits"', f'spec = "{tmp_path}/nowhere"'))
    asked = read_experiment(file)
    with pytest.raises(ExperimentError, match=r"e\.toml, line 5: data 'digits': no data at .*nowhere.*--data digits="):
        compare(asked, results, tmp_path / "work")
    assert not results.exists()
    assert main(["compare", str(file), "--list"]) == 0
    assert "these runs cannot begin here" in capsys.readouterr().err
    # Of runs that are all done, no data are needed; but what the command line says is never passed over.
    results.write_text("".join(json.dumps(finished(run)) + "\n" for run in asked.runs))
    assert not compare(asked, results, tmp_path / "work").left
    command = ["compare", str(file), "--results", str(results), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    assert main([*command, "--data", "digits=/nowhere"]) == 1
    assert "--data: data 'digits': no data at /nowhere" in capsys.readouterr().err


def finished(run: Run) -> dict[str, Any]:
    values = {"arm": run.arm, "options": {}, "model": run.model, "args": {}, "data": run.data, "seed": 0, "budget": {}}
    return {
        "key": run.key,
        "run": {**values, "train": {}, "epochs": run.epochs},
        "accuracy": 0.5,
        "params": 100,
        "macs": 100,
        "dense": {"params": 100, "macs": 100},
        "search": {"seconds": 1.0},
        "training": {"seconds": 1.0, "seconds_per_epoch": 1.0, "macs": 5.0},
        "latency": None,
    }


@pytest.mark.parametrize("file", sorted((BENCHMARKS / "experiments").glob("*.toml")), ids=lambda file: file.stem)
def test_the_experiments_of_the_evidence_can_be_read(file: Path) -> None:
    assert read_experiment(file).runs
