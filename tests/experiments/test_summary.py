"""What one row of a comparison holds: seeds of one model, data set, budget and arm, and nothing else."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from reconvene.experiments.pages import comparison, plots, tables, write_pages
from reconvene.experiments.summary import as_text, caveats, summarise

HEADLINES = {"classification": "accuracy", "regression": "mae"}


def record(
    arm: str = "uniform", seed: int = 0, score: float = 0.5, contents: str | None = "a" * 64, **run: Any
) -> dict[str, Any]:
    usual = {"model": "resnet8", "args": {}, "data": "cells", "limit": None, "epochs": 1, "train": {}, "options": {}}
    budget = {} if arm == "dense" else {"params": "2x"}
    task = run.get("task", "classification")
    params = 100 if arm == "dense" else 50
    return {
        "key": f"{arm} {seed} {contents} {run}",
        "run": {**usual, "arm": arm, "seed": seed, "budget": budget, **run},
        "task": task,
        HEADLINES[task]: score,
        "params": params,
        "macs": params,
        "dense": {"params": 100, "macs": 100},
        "search": {"seconds": 1.0},
        "training": {"seconds": 1.0, "seconds_per_epoch": 1.0, "macs": 5.0},
        "latency": None,
        "commit": "c0ffee",
        **({} if contents is None else {"dataset_sha256": contents}),
    }


def test_seeds_on_other_data_of_the_same_name_are_no_seeds_of_one_row(tmp_path: Path) -> None:
    runs = [record("dense", 0), record("uniform", 0, 0.25), record("uniform", 1, 0.75, contents="b" * 64)]
    lines = summarise(runs)
    assert [(line.data, line.label, line.score_text, line.score.n) for line in lines] == [
        ("cells (sha256 aaaaaaaa)", "dense", "50.0", 1),
        ("cells (sha256 aaaaaaaa)", "uniform", "25.0", 1),
        ("cells (sha256 bbbbbbbb)", "uniform", "75.0", 1),
    ]
    said = caveats(lines)
    assert "'cells' is the name of data with different contents (sha256 aaaaaaaa, sha256 bbbbbbbb)" in said
    assert "cells (sha256 bbbbbbbb)" in as_text(lines)
    written = {path.name: path.read_text() for path in write_pages(lines, tmp_path)}
    for name in ("index.html", "table.md"):
        assert "with different contents" in written[name] and "cells (sha256 bbbbbbbb)" in written[name]


def test_agreement_is_with_the_dense_network_on_the_same_images() -> None:
    answers = base64.b64encode(zlib.compress(np.arange(4, dtype=np.uint16).tobytes())).decode()
    for contents, agrees in (("a" * 64, True), ("b" * 64, False)):
        runs = [record("dense"), record("uniform", contents=contents)]
        for run in runs:
            run |= {"assessment": {"answers": answers}, "per_class": {"a": 0.5}}
        assert [("agreement" in line.extra) for line in summarise(runs)] == [False, agrees]


def test_one_contents_and_records_without_a_digest_are_one_data_set() -> None:
    older = record(seed=1, score=0.75, contents=None)
    (line,) = summarise([record(seed=0, score=0.25), older])
    assert (line.data, line.score.n) == ("cells", 2) and not caveats([line])
    split = summarise([record(), record(contents="b" * 64), older])
    assert [line.data for line in split] == [
        "cells (sha256 aaaaaaaa)",
        "cells (sha256 bbbbbbbb)",
        "cells (contents not recorded)",
    ]


def test_fewer_images_of_a_data_set_have_other_contents_and_are_the_same_data_set() -> None:
    lines = summarise([record(), record(limit=100, contents="b" * 64)])
    assert [(line.data, line.label) for line in lines] == [("cells", "uniform"), ("cells", "uniform, limit 100")]
    assert not caveats(lines)


def test_tasks_of_one_data_set_are_not_averaged() -> None:
    lines = summarise([record(score=0.5), record(task="regression", score=7.0)])
    assert [(line.label, line.score_text) for line in lines] == [("uniform", "50.0"), ("uniform, task regression", "7")]


def test_a_setting_is_named_where_it_differs_within_one_model_and_data_set() -> None:
    runs = [record(data="digits", limit=128), record(data="cells"), record("random", data="cells", epochs=2)]
    assert [line.label for line in summarise(runs)] == ["uniform", "uniform, epochs 1", "random, epochs 2"]


def test_every_plot_has_a_file_of_its_own() -> None:
    names = ["cells.v1", "cells-v1", "Cells_V1"]
    lines = summarise([record(arm, data=data) for data in names for arm in ("dense", "uniform")])
    drawn = plots(lines)
    assert len({name.lower() for name in drawn}) == len(drawn) == 6  # parameters and MACs of each
    titles = [title for svg in drawn.values() for title in re.findall(r">resnet8 on ([^<]*)<", svg)]
    assert set(titles) == set(names)


def test_the_page_says_which_way_is_better_for_each_headline() -> None:
    errors = [record(arm, data="sizes", task="regression") for arm in ("dense", "uniform")]
    labels = [record(arm) for arm in ("dense", "uniform")]
    for runs, says in (
        (labels, "further up is better, to the left"),
        (errors, "further down is better, to the left"),
        (labels + errors, "further up is better for accuracy and further down is better for mae, to the left"),
    ):
        lines = summarise(runs)
        assert says in comparison(lines, plots(lines)) and "different contents" not in tables(lines)
