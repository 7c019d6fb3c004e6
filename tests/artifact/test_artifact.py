"""Artifacts: what is saved comes back bit for bit, and whatever happens to the folder has its own clear error."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reconvene
from reconvene import artifact
from reconvene.artifact import MANIFEST, PLAN, WEIGHTS
from reconvene.artifact import folder as folder_module
from reconvene.costs import Budget
from reconvene.errors import ArtifactError
from reconvene.models import MODELS, ModelSource, example_inputs, resolve_address
from support.training_checks import same


class Tied(nn.Module):
    """An embedding whose weight is also the head's, and a buffer that is a view into another."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(6.0))
        self.register_buffer("start", self.table[:3])
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


class Sized(nn.Module):
    """Takes an argument, so nothing can be derived."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)


TINY = {"address": "resnet20", "args": {"width": 0.25}, "input_shape": [3, 32, 32], "seed": 1}


def tiny() -> nn.Module:
    return ModelSource.from_dict(TINY).build()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def disturb(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor))
    return model


def test_a_dense_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = disturb(tiny())
    artifact.save(model, tmp_path / "a", source=TINY, extra={"accuracy": 0.5})
    again = artifact.load(tmp_path / "a")
    assert type(again) is type(model) and same(model, again)
    found = artifact.Artifact.open(tmp_path / "a")
    assert found.source == ModelSource.from_dict(TINY) and found.measurements == {"accuracy": 0.5}
    assert sorted(contents(tmp_path / "a")) == [WEIGHTS, MANIFEST]


def test_a_loaded_model_can_be_saved_again_and_gives_the_same_bytes(tmp_path: Path) -> None:
    artifact.save(disturb(tiny()), tmp_path / "a", source=TINY)
    artifact.save(artifact.load(tmp_path / "a"), str(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_saving_leaves_the_model_and_the_random_state_as_they_were(tmp_path: Path) -> None:
    model = disturb(tiny()).eval()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    artifact.save(model, tmp_path / "a", source=TINY)
    assert torch.equal(before, torch.get_rng_state()) and not model.training
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_tied_and_overlapping_tensors_come_back_tied(tmp_path: Path) -> None:
    model = disturb(Tied())
    artifact.save(model, tmp_path / "a")
    again = artifact.load(tmp_path / "a", allow_import=True)
    assert isinstance(again, Tied) and same(model, again)
    assert again.head.weight is again.embed.weight
    assert artifact.Artifact.open(tmp_path / "a").aliases == {"head.weight": "embed.weight"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_comes_back_and_nothing_is_rounded(tmp_path: Path, dtype: torch.dtype) -> None:
    model = disturb(Tied().to(dtype))
    artifact.save(model, tmp_path / "a")
    again = artifact.load(tmp_path / "a", allow_import=True)
    assert same(model, again) and again.head.weight is again.embed.weight


def test_channels_last_weights_come_back_equal(tmp_path: Path) -> None:
    model = disturb(tiny()).to(memory_format=torch.channels_last)
    artifact.save(model, tmp_path / "a", source=TINY)
    assert same(model, artifact.load(tmp_path / "a"))


def test_the_dense_model_is_the_untrained_one(tmp_path: Path) -> None:
    artifact.save(disturb(tiny()), tmp_path / "a", source=TINY)
    assert same(artifact.dense(tmp_path / "a"), tiny())


def test_record_adds_measurements_and_keeps_the_rest(tmp_path: Path) -> None:
    model = disturb(tiny())
    artifact.save(model, tmp_path / "a", source=TINY, extra={"x": 1, "y": 1})
    artifact.add_measurements(tmp_path / "a", {"y": 2, "z": [3]})
    assert artifact.Artifact.open(tmp_path / "a").measurements == {"x": 1, "y": 2, "z": [3]}
    assert same(model, artifact.load(tmp_path / "a"))


def test_every_section_of_a_step_comes_back_as_its_type(tmp_path: Path) -> None:
    operations = artifact.ReplacedOperations({"act": 2.5}, {"act": 0.25})
    sections = {
        "refused": {"model.int8.onnx": "it agrees too little"},
        "compiled": {"cycles": 7, "sram": 100},
        "pruned_in_steps": {"steps": 5, "floor": None, "pruning": {"keep": ["head"]}},
        "operations": operations,
    }
    artifact.save(disturb(tiny()), tmp_path / "a", source=TINY, extra=sections)
    stored = artifact.Artifact.open(tmp_path / "a")
    assert {name: getattr(stored, name) for name in sections} == sections
    assert stored.measurements["operations"] == {"largest": {"act": 2.5}, "losses": {"act": 0.25}}
    for name in sections:
        with pytest.raises(ArtifactError, match=f"measurements.{name}"):
            artifact.add_measurements(tmp_path / "a", {name: {"largest": 1, "a/b": ["x"]} if name[0] != "p" else 1})


def test_files_of_others_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.jsonl").write_text("kept")
    artifact.save(tiny(), tmp_path / "a", source=TINY)
    assert (tmp_path / "a" / "train.jsonl").read_text() == "kept"


def test_a_model_of_ours_knows_how_it_was_built(tmp_path: Path) -> None:
    model = disturb(MODELS["resnet20"](7, width=0.25))
    artifact.save(model, tmp_path / "a")
    assert artifact.Artifact.open(tmp_path / "a").source == ModelSource(
        "resnet20", {"num_classes": 7, "width": 0.25}, (3, 32, 32)
    )
    assert same(model, artifact.load(tmp_path / "a"))


@pytest.mark.parametrize("build", ["torchvision.models:squeezenet1_1", "timm.models.resnet:resnet10t"])
def test_a_model_of_a_vision_package_is_recognised(tmp_path: Path, build: str) -> None:
    module, name = build.split(":")
    model = getattr(pytest.importorskip(module), name)(num_classes=7)
    artifact.save(disturb(model), tmp_path / "a")
    source = artifact.Artifact.open(tmp_path / "a").source
    assert source.address == f"{module.partition('.')[0]}:{name}" and source.args == {"num_classes": 7}
    assert same(model, artifact.load(tmp_path / "a"))


@pytest.mark.parametrize("change", ["attribute", "function", "layer"])
def test_a_model_that_was_changed_after_it_was_built_is_not_taken_for_the_built_one(
    tmp_path: Path, change: str
) -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.squeezenet1_1()
    if change == "attribute":
        model.features[0].stride = (1, 1)
    elif change == "function":
        model.after = lambda x: x
    else:
        model.classifier[2] = nn.SiLU()
    with pytest.raises(ArtifactError, match="source="):
        artifact.save(model, tmp_path / "a")


def test_an_own_class_that_keeps_its_arguments_is_recognised(tmp_path: Path) -> None:
    artifact.save(Keeping(3), tmp_path / "a")
    assert artifact.Artifact.open(tmp_path / "a").source.args == {"width": 3, "scale": 1.0}
    with pytest.raises(ArtifactError, match="source="):  # a function that is not the default one
        artifact.save(Keeping(3, activation=torch.tanh), tmp_path / "a")


class Keeping(nn.Module):
    """Keeps its arguments as attributes, as many classes do."""

    def __init__(self, width: int, scale: float = 1.0, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.width, self.scale, self._activation = width, scale, activation
        self.layer = nn.Linear(width, 2)


def test_a_model_that_leaves_its_construction_to_a_guess_is_refused(tmp_path: Path) -> None:
    class Local(nn.Module):
        pass

    with pytest.raises(ArtifactError, match="source="):
        artifact.save(Sized(3), tmp_path / "a")
    with pytest.raises(ArtifactError, match="source="):
        artifact.save(Local(), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    artifact.save(Sized(3), tmp_path / "a", source={"address": f"{__name__}:Sized", "args": {"width": 3}})
    assert isinstance(artifact.load(tmp_path / "a", allow_import=True), Sized)


def test_a_source_that_gives_another_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="shape"):
        artifact.save(tiny(), tmp_path / "a", source="resnet20")
    with pytest.raises(ArtifactError, match="lacks"):
        artifact.save(tiny(), tmp_path / "a", source="unet")
    with pytest.raises(ArtifactError, match="source of a model"):
        artifact.save(tiny(), tmp_path / "a", source={"name": "resnet20"})
    assert not (tmp_path / "a").exists()


def test_an_import_is_refused_unless_allowed(tmp_path: Path) -> None:
    artifact.save(Tied(), tmp_path / "a")
    for use in (artifact.load, artifact.dense):
        with pytest.raises(ArtifactError, match="allow_import=True"):
            use(tmp_path / "a")


@pytest.mark.parametrize("extra", [{"t": torch.ones(1)}, {"nan": float("nan")}, {"f": print}])
def test_measurements_that_json_cannot_hold_are_refused(tmp_path: Path, extra: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="JSON"):
        artifact.save(tiny(), tmp_path / "a", source=TINY, extra=extra)
    assert not (tmp_path / "a").exists()


def test_state_that_is_no_dense_tensor_is_refused(tmp_path: Path) -> None:
    model = tiny()
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    with pytest.raises(ArtifactError, match="resnet20"):  # the source does not give this model
        artifact.save(model, tmp_path / "a", source=TINY)
    with pytest.raises(ArtifactError, match="sparse cannot be kept"):
        artifact.save(Sparse(), tmp_path / "a")


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sparse", torch.eye(3).to_sparse())


# ---- what can have happened to a folder ----


def rewrite(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**data, **changes}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("weights truncated", lambda f: truncate(f / WEIGHTS), "model.safetensors is truncated"),
    ("weights altered", lambda f: flip(f / WEIGHTS), "model.safetensors was altered"),
    ("weights missing", lambda f: (f / WEIGHTS).unlink(), "model.safetensors is missing"),
    ("weights replaced by a pickle", lambda f: (f / WEIGHTS).write_bytes(pickle.dumps([0] * 10**6)), "altered"),
    ("manifest truncated", lambda f: truncate(f / MANIFEST), "reconvene.json is truncated"),
    ("manifest emptied", lambda f: (f / MANIFEST).write_text(""), "reconvene.json is truncated"),
    ("manifest missing", lambda f: (f / MANIFEST).unlink(), "not a Reconvene artifact"),
    ("manifest altered", lambda f: rewrite(f, aliases={"a": "b"}), "reconvene.json was altered"),
    ("manifest altered in its version", lambda f: rewrite(f, format_version="one"), "altered"),
    ("manifest foreign", lambda f: (f / MANIFEST).write_text('{"name": "package"}'), "not written by Reconvene"),
    ("manifest a list", lambda f: (f / MANIFEST).write_text("[]"), "not written by Reconvene"),
    ("manifest binary", lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe\x00"), "not JSON"),
    ("newer", lambda f: rewrite(f, format_version=99, reconvene="9.0"), "written by Reconvene 9.0.*Upgrade"),
]


@pytest.mark.parametrize(("damage", "message"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_a_damaged_folder_says_what_is_wrong(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    artifact.save(tiny(), tmp_path / "a", source=TINY)
    damage(tmp_path / "a")
    with pytest.raises(ArtifactError, match=message):
        artifact.load(tmp_path / "a")


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a folder"):
        artifact.load(tmp_path / "nowhere")


# ---- writing that does not get to its end ----


class Stop:
    """Lets ``after`` calls through to the real function, then raises."""

    def __init__(self, real: Callable[..., Any], after: int, error: BaseException) -> None:
        self.real, self.after, self.error = real, after, error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.after == 0:
            raise self.error
        self.after -= 1
        return self.real(*args, **kwargs)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "ctrl-c"])
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("existing", [False, True])
def test_a_save_that_is_stopped_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int, existing: bool
) -> None:
    folder = tmp_path / "a"
    if existing:
        artifact.save(tiny(), folder, source=TINY)
    before = contents(folder) if existing else None
    monkeypatch.setattr(folder_module.os, "fsync", Stop(os.fsync, after, error))
    expected = ArtifactError if error is FULL else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        artifact.save(disturb(tiny()), folder, source=TINY)
    if error is FULL:
        assert "No space left on device" in str(caught.value)
    assert (contents(folder) if existing else folder.exists()) == (before if existing else False)


@pytest.mark.parametrize("replaced", [0, 1], ids=["before the manifest", "after the manifest"])
def test_a_killed_save_leaves_the_old_artifact_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: int
) -> None:
    folder, old, new = tmp_path / "a", tiny(), disturb(tiny())
    artifact.save(old, folder, source=TINY)
    monkeypatch.setattr(folder_module.os, "replace", Stop(os.replace, replaced, KeyboardInterrupt()))
    monkeypatch.setattr(folder_module, "_discard", lambda *_: None)  # kill -9: no cleaning up
    with pytest.raises(KeyboardInterrupt):
        artifact.save(new, folder, source=TINY)
    monkeypatch.undo()
    assert (folder / (WEIGHTS + ".new")).exists()
    assert same(artifact.load(folder), [old, new][replaced])
    artifact.add_measurements(folder, {"x": 1})
    assert sorted(contents(folder)) == [WEIGHTS, MANIFEST]
    assert same(artifact.load(folder), [old, new][replaced])


def test_ctrl_c_between_the_commit_and_the_next_line_does_not_undo_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, new = tmp_path / "a", disturb(tiny())
    artifact.save(tiny(), folder, source=TINY)

    def replace_then_interrupt(source: Path, target: Path) -> None:
        os.rename(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module.os, "replace", replace_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        artifact.save(new, folder, source=TINY)
    monkeypatch.undo()
    assert same(artifact.load(folder), new)


def test_a_read_only_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):  # root writes anywhere: let the system say what it would say to others
        denied = OSError(errno.EROFS, os.strerror(errno.EROFS))
        monkeypatch.setattr(folder_module, "write_through", Stop(folder_module.write_through, 0, denied))
    with pytest.raises(ArtifactError, match=r"cannot write the artifact .*(Read-only|Permission denied)"):
        artifact.save(tiny(), folder, source=TINY)
    folder.chmod(0o700)
    assert contents(folder) == {}


def test_a_path_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ArtifactError, match="cannot write the artifact"):
        artifact.save(tiny(), tmp_path / "a", source=TINY)


def test_a_dense_model_saved_over_a_pruned_one_takes_the_plan_away(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    artifact.save(tiny(), folder, source=TINY)
    (folder / PLAN).write_text("{}")
    artifact.save(tiny(), folder, source=TINY)
    assert artifact.read_plan(folder) is None and not (folder / PLAN).exists()


def test_resolve_and_save_agree_on_the_address(tmp_path: Path) -> None:
    source = resolve_address("resnet20", {"width": 0.25}, seed=3)
    artifact.save(source.build(), tmp_path / "a", source=source)
    assert artifact.Artifact.open(tmp_path / "a").source == source


# ---- pruned models ----


@pytest.fixture(scope="module")
def small() -> nn.Module:
    model = artifact.remember_origin(tiny(), plan=None, source=ModelSource.from_dict(TINY))
    return reconvene.prune(model, example_inputs((3, 32, 32)), Budget(params="2x"), "magnitude")


def test_a_network_pruned_three_times_is_saved_by_one_plan_of_the_dense_one(tmp_path: Path) -> None:
    network, x = tiny(), example_inputs((3, 32, 32))
    for size in ("1.5x", "1.5x", "1.5x"):
        network = reconvene.prune(network, x, Budget(params=size), trained=True, rectify="keep")
    artifact.save(network, tmp_path / "a")
    again = artifact.load(tmp_path / "a")
    assert same(network, again)
    plan = again.reconvene_plan
    assert plan.shapes == {name: list(tensor.shape) for name, tensor in tiny().state_dict().items()}
    assert plan.costs["pruned"] == network.reconvene_plan.costs["pruned"]
    assert same(plan.apply(tiny()), network), "the channels of one plan are those that three plans left"


def test_plans_of_a_source_without_an_input_shape_are_not_composed(tmp_path: Path) -> None:
    network, x = tiny(), example_inputs((3, 32, 32))
    for _ in range(2):
        network = reconvene.prune(network, x, Budget(params="1.5x"), trained=True, rectify="keep")
    with pytest.raises(ArtifactError, match=r"2 plans were applied to resnet20.*input_shape"):
        artifact.save(network, tmp_path / "a", source={"address": "resnet20", "args": {"width": 0.25}, "seed": 1})
    assert not (tmp_path / "a").exists()


def test_a_pruned_model_comes_back_bit_for_bit_with_its_plan(tmp_path: Path, small: nn.Module) -> None:
    artifact.save(small, tmp_path / "a")
    again = artifact.load(tmp_path / "a")
    assert same(small, again) and not same(small, ModelSource.from_dict(TINY).build())
    plan = artifact.read_plan(tmp_path / "a")
    assert plan is not None and plan.to_json() == small.reconvene_plan.to_json() == again.reconvene_plan.to_json()
    x = example_inputs((3, 32, 32), batch=2)
    with torch.no_grad():
        assert torch.equal(small.eval()(x), again.eval()(x))
    artifact.save(again, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_plan_in_the_folder_is_the_plan_as_it_saves_itself(tmp_path: Path, small: nn.Module) -> None:
    artifact.save(small, tmp_path / "a")
    small.reconvene_plan.save(tmp_path / "plan.json")
    assert (tmp_path / "a" / PLAN).read_bytes() == (tmp_path / "plan.json").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: truncate(f / PLAN), "plan.json is truncated"),
        (lambda f: flip(f / PLAN), "plan.json was altered"),
        (lambda f: (f / PLAN).unlink(), "plan.json is missing"),
    ],
    ids=["truncated", "altered", "missing"],
)
def test_a_damaged_plan_says_what_is_wrong(
    tmp_path: Path, small: nn.Module, damage: Callable[[Path], Any], message: str
) -> None:
    artifact.save(small, tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(ArtifactError, match=message):
        artifact.load(tmp_path / "a")


def test_a_pruned_model_without_its_plan_is_refused(tmp_path: Path, small: nn.Module) -> None:
    model = artifact.remember_origin(copy.deepcopy(small), plan=None, source=ModelSource.from_dict(TINY))
    with pytest.raises(ArtifactError, match="another model"):
        artifact.save(model, tmp_path / "a")


def test_the_front_door_saves_and_loads(tmp_path: Path, small: nn.Module) -> None:
    reconvene.save(small, f"{tmp_path}/a/")
    assert same(small, reconvene.load(f"{tmp_path}/a/"))
