"""Files of settings: YAML and TOML say the same, a dataclass decides what may stand there, errors name the line."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from reconvene.errors import ExperimentError, FleetError, ReconveneError
from reconvene.experiments import make_experiment, read_experiment
from reconvene.fleet import read_fleet
from reconvene.utils.settings import Argument, Names, Positive, Seed, Settings, Shape, one_of
from reconvene.utils.settings_files import read_settings

pytest.importorskip("yaml")


@dataclass(frozen=True, kw_only=True)
class Example:
    count: Positive
    seed: Seed = 0
    rate: float = 0.5
    switch: bool = False
    names: Names = ("usual",)
    shape: Shape | None = None
    choice: Annotated[str, one_of(["apple", "pear"])] | None = None
    args: dict[str, Argument] = field(default_factory=dict)


YAML = """\
# a comment
count: 3
rate: 1
names: one

shape: 3x32X32
choice: pear
args:
  width: 0.5
  bias: true
  depth: 2
  kind: "7"
"""
TOML = """\
# a comment
count = 3
rate = 1
names = ["one"]

shape = [3, 32, 32]
choice = "pear"
[args]
width = 0.5
bias = true
depth = 2
kind = "7"
"""


def settings(folder: Path, text: str, ending: str) -> Settings:
    path = folder / f"file.{ending}"
    path.write_text(text)
    return read_settings(path, error=FleetError, usual="yaml")


def test_both_languages_say_the_same(tmp_path: Path) -> None:
    from_yaml, from_toml = (
        settings(tmp_path, text, ending).read(Example) for text, ending in ((YAML, "yml"), (TOML, "toml"))
    )
    assert from_yaml == from_toml
    assert (from_yaml.rate, from_yaml.names, from_yaml.shape) == (1.0, ("one",), (3, 32, 32))
    assert [type(value) for value in from_yaml.args.values()] == [float, bool, int, str]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("count", "0", "count: expected at least 1, got 0"),
        ("count", "true", "count: expected a whole number, got true"),
        ("count", '"3"', "count: expected a whole number, got text '3'"),
        ("count", "3.5", "count: expected a whole number, got 3.5"),
        ("count", "[3]", "count: expected a whole number, got a list of 1"),
        ("count", "2024-01-01", "count is a date: write text in quotes"),
        ("count", "99999999999999999999", "count 9+ is beyond 64 bits"),
        ("seed", "9223372036854775808", "seed: expected less than 9,223,372,036,854,775,808, got 9223372036854775808"),
        ("rate", '"fast"', "rate: expected a number, got text 'fast'"),
        ("rate", "true", "rate: expected a number, got true"),
        ("switch", "1", "switch: expected true or false, got 1"),
        ("names", "[]", "names: expected at least 1 entry, got a list of 0"),
        ("names", '["a", "a"]', "names: 'a' is named twice"),
        ("names", '["a", 3]', "entry 2 of names: expected text, got 3"),
        ("shape", '"3x-1"', "shape: '3x-1' is not a shape such as 3x32x32"),
        ("shape", "[3, 0]", "entry 2 of shape: expected at least 1, got 0"),
        ("shape", "3", "shape: expected a list, got 3"),
        ("choice", '"peer"', "choice: 'peer' is none of apple, pear. Did you mean 'pear'"),
        ("rat", "1", "the file has no 'rat'. Did you mean 'rate'"),
        ("unheard", "1", "the file has no 'unheard'. It may have: args, choice"),
    ],
)
@pytest.mark.parametrize("ending", ["yaml", "toml"])
def test_a_mistake_is_reported_with_its_line(ending: str, name: str, value: str, why: str, tmp_path: Path) -> None:
    text, sign = (YAML, ": ") if ending == "yaml" else (TOML, " = ")
    lines = [line for line in text.splitlines() if not line.startswith(f"{name}{sign.rstrip()}")]
    lines.insert(3, f"{name}{sign}{value}")
    with pytest.raises(FleetError, match=rf"file.{ending}, line 4: {why}"):
        settings(tmp_path, "\n".join(lines), ending).read(Example)


@pytest.mark.parametrize(
    ("ending", "text", "why"),
    [
        ("yaml", "count: 1\nargs: {width: .inf}", r"line 2: args.width inf is not finite"),
        ("toml", "count = 1\n\n[args]\n# wide\nwidth = nan", r"line 5: args.width nan is not finite"),
        ("toml", "count = [\n1,\n2,\n]\nseed = 1", r"line 1: count: expected a whole number, got a list of 2"),
        ("toml", 'text = """\ncount\n"""\ncount = 0\nseed = 1', r"line 1: the file has no 'text'"),
        ("toml", "count = 1\nargs = {a = 1, b = [1]}", r"line 2: args.b: expected "),
        ("yaml", "count: 1\nargs:\n  a: 1\n  b: [1]", r"line 4: args.b: expected "),
        ("yaml", "count: 1\nseed: 1\ncount: 2", r"line 3: 'count' is there twice"),
        ("toml", "count = 1\ncount = 2", r"is not TOML"),
        ("yaml", "- 1", r"line 1: the file is not a table"),
        ("yaml", "", r"count is missing"),
        ("toml", "", r"count is missing"),
        ("yaml", "count: [1", r"line \d: this is not YAML"),
        ("yaml", "count: !!python/object:os.system x", r"line 1: this value cannot be read"),
        ("yaml", "[a]: 1", r"line 1: a name in the file is not plain text"),
        ("yaml", "a: &a [*a]", r"line 1: .*nested too deep|line 1: found undefined alias|recursive"),
        ("yaml", "a: " + "[" * 5000, r"nested too deep|not YAML"),
        ("toml", "a = " + "[" * 5000 + "]" * 5000, r"nested too deep"),
        ("toml", "a = " + "9" * 5000, r"not TOML|beyond 64 bits"),
        ("yaml", "a: \x00", r"not YAML"),
    ],
)
def test_a_file_without_settings_is_refused(ending: str, text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=why):
        settings(tmp_path, text, ending).read(Example)


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(FleetError, match="too many values"):
        settings(tmp_path, "\n".join(lines), "yaml")


def test_tables_take_over_the_names_of_others(tmp_path: Path) -> None:
    text = """\
a: &a {count: 3, seed: 1}
b: &b
  <<: *a
  seed: 2
c: {<<: [*b, *a, {rate: 0}], switch: true}
d: {"<<": 1}
"""
    read = settings(tmp_path, text, "yaml")
    assert read.values["b"] == {"count": 3, "seed": 2} and read.values["d"] == {"<<": 1}
    assert read.values["c"] == {"count": 3, "seed": 2, "rate": 0, "switch": True}
    with pytest.raises(ReconveneError, match="line 4"):
        read.fail(("c", "seed"), "the line of the value that holds")
    with pytest.raises(ReconveneError, match=r"line 2: .*Try: <<: "):
        settings(tmp_path, "a: &a [1]\nb: {<<: *a}", "yaml")
    with pytest.raises(ReconveneError, match="line 1: 'x' is there twice"):
        settings(tmp_path, "a: &a {x: 1, x: 2}\nb: {<<: *a}", "yaml")
    levels = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], x{n}: 1}}" for n in range(1, 25)]
    deep = settings(tmp_path, "\n".join(["a0: &a0 {x: 1}", *levels]), "yaml")
    assert len(deep.values["a24"]) == 25
    assert settings(tmp_path, "a: &a {<<: *a, x: 1}", "yaml").values == {"a": {"x": 1}}


def test_a_file_that_is_no_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "file.yaml", tmp_path, tmp_path / "nowhere", "a\0b"):
        with pytest.raises(FleetError, match="cannot be read"):
            read_settings(path, error=FleetError, usual="toml")


WORDS = st.text("abcdefg_\n\"'[]{}#=:,. 0123456789-", max_size=80)


@limits(deadline=None)
@given(WORDS, st.sampled_from(["yaml", "toml"]))
def test_any_text_is_read_or_refused(text: str, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(FleetError):
        settings(Path(folder), text, ending).read(Example)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PARTS = [
    "epochs",
    "seeds",
    "train",
    "models",
    "data",
    "budgets",
    "arms",
    "latency",
    "device",
    "round_to",
    "input",
    "args",
]


@limits(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(PARTS), VALUES), st.sampled_from(["", "models", "data", "budgets", "arms", "train"])
)
def test_any_values_are_an_experiment_or_an_error_of_ours(values: dict[str, Any], part: str) -> None:
    whole = {
        "models": [{"model": "resnet20"}],
        "data": [{"name": "digits", "spec": "digits"}],
        "budgets": [{"params": "2x"}],
        "arms": [{"arm": "ours"}],
    }
    changed = {**whole, part: [{**whole[part][0], **values}]} if part in whole else {**whole, **values}
    with contextlib.suppress(ReconveneError):
        make_experiment(changed)


FLEET_TOML = """\
models = ["resnet20"]
args = {width = 0.25}
export = "onnx"
[devices.chip]
params = "2x"
[devices.board]
macs = 0.5
export = ["onnx"]
[train]
epochs = 2
lr = 0.05
"""
FLEET_YAML = """\
models: [resnet20]
args: {width: 0.25}
export: onnx
devices:
  chip: {params: 2x}
  board: {macs: 0.5, export: [onnx]}
train: {epochs: 2, lr: 0.05}
"""


def test_fleets_and_experiments_are_written_in_either_language(tmp_path: Path) -> None:
    for name, text in (("fleet.yaml", FLEET_YAML), ("fleet.toml", FLEET_TOML)):
        (tmp_path / name).write_text(text)
    assert read_fleet(tmp_path / "fleet.yaml") == read_fleet(tmp_path / "fleet.toml")
    (tmp_path / "e.yaml").write_text(
        "seeds: [0, 1]\nmodels:\n  - model: resnet20\ndata:\n  - {name: digits, spec: digits}\n"
        "budgets:\n  - params: 4x\narms:\n  - arm: ours\n    criterion: [synflow, snip]\n    evaluator: density\n"
        "  - arm: unifrom\n"
    )
    with pytest.raises(ExperimentError, match=r"e.yaml, line 12: unknown arm 'unifrom'. Did you mean 'uniform'"):
        read_experiment(tmp_path / "e.yaml")
    (tmp_path / "e.yaml").write_text((tmp_path / "e.yaml").read_text().replace("unifrom", "uniform"))
    assert len(read_experiment(tmp_path / "e.yaml").runs) == 6
