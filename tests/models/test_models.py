"""Reference networks and model addresses."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reconvene.errors import MissingExtraError, ModelError, UnknownNameError
from reconvene.models import MODELS, ModelSource, example_inputs, parse_arguments, resolve_address

# Counted by hand or known from the literature (ResNet-20: 0.27M, ResNet-56: 0.86M, VGG-16: 14.7M, ResNet-18: 11.17M,
# ResNet-8 of MLPerf Tiny: 78k); a spiking network has the convolutions of its model, and learns nothing of its neurons.
PARAMETERS = {
    "ds_cnn": 28_170,
    "mobilenetv2": 2_236_682,
    "resnet18": 11_173_962,
    "resnet20": 272_474,
    "resnet32": 466_906,
    "resnet56": 855_770,
    "resnet8": 78_042,
    "snn_resnet18": 11_173_962,
    "snn_vgg": 4_507_722,
    "unet": 1_927_306,
    "vgg16_bn": 14_724_042,
}


def state_bytes(model: nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


CLASSIFIERS_AND_UNET = [name for name in MODELS if name != "hovernet"]


@pytest.mark.parametrize("name", CLASSIFIERS_AND_UNET)
def test_a_reference_network_has_its_size_and_output(name: str) -> None:
    model = MODELS[name]()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    with torch.no_grad():
        output = model.eval()(torch.randn(2, 3, 32, 32))
    assert output.shape == ((2, 10, 32, 32) if name == "unet" else (2, 10))
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", CLASSIFIERS_AND_UNET)
def test_constructor_arguments_reach_the_network(name: str) -> None:
    model = MODELS[name](num_classes=4, in_channels=1, width=0.25)
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 1, 32, 32)).shape[1] == 4
    assert sum(p.numel() for p in model.parameters()) < PARAMETERS[name] / 4


def test_a_seed_gives_the_same_bytes_and_another_seed_other_bytes() -> None:
    build = [resolve_address("resnet20", seed=seed).build() for seed in (3, 3, 4)]
    assert state_bytes(build[0]) == state_bytes(build[1]) != state_bytes(build[2])


class Drawing(nn.Module):
    """A constructor that draws from all three global generators."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1) + float(np.random.rand()) + random.random())


def test_building_is_seeded_in_every_generator_and_leaves_all_of_them_as_they_were() -> None:
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    source = ModelSource(f"{__name__}:Drawing", seed=7)
    first = source.build(allow_import=True)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert state_bytes(first) == state_bytes(source.build(allow_import=True))


def test_the_input_shape_is_the_models_own_unless_given() -> None:
    assert resolve_address("vgg16_bn").input_shape == (3, 32, 32)
    assert resolve_address("vgg16_bn", {"in_channels": 1}).input_shape == (1, 32, 32)
    assert resolve_address("vgg16_bn", input_shape=(3, 64, 64)).input_shape == (3, 64, 64)


def test_example_inputs_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (example_inputs((3, 8, 8), batch=2, seed=seed) for seed in (0, 0, 1))
    assert a.shape == (2, 3, 8, 8) and torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_a_source_survives_json() -> None:
    source = ModelSource("vgg16_bn", {"num_classes": 4, "width": 0.5}, (3, 32, 32), 5)
    assert ModelSource.from_dict(source.to_dict()) == source


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"address": 3},
        {"address": "a", "seed": "x"},
        {"address": "a", "args": {"k": [1]}},
        {"address": "a", "input_shape": 3},
    ],
)
def test_what_is_no_source_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"source of a model|recorded"):
        ModelSource.from_dict(data)


def test_arguments_are_read_as_their_kind() -> None:
    pairs = ["num_classes=10", "width=0.5", "bias=false", "deep=True", "name=a=b", "rate=1e-3"]
    expected = {"num_classes": 10, "width": 0.5, "bias": False, "deep": True, "name": "a=b", "rate": 1e-3}
    assert parse_arguments(pairs) == expected
    assert [type(value) for value in parse_arguments(pairs).values()] == [int, float, bool, bool, str, float]


@pytest.mark.parametrize("pairs", [["num_classes"], ["=3"], ["a b=1"], ["a=1", "a=2"]])
def test_arguments_that_cannot_be_read_are_refused(pairs: list[str]) -> None:
    with pytest.raises(ModelError, match="model argument"):
        parse_arguments(pairs)


@pytest.mark.parametrize(
    ("address", "name"),
    [("resnet20", "in_channels"), ("timm:resnet18", "in_chans"), ("timm:vit_tiny_patch16_224", "img_size")],
)
def test_an_argument_that_counts_is_a_whole_number(address: str, name: str) -> None:
    if address.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ModelError, match=rf"{address}: {name}='abc' is not a whole number"):
        resolve_address(address, {name: "abc"})


def test_an_unknown_name_lists_the_models_and_the_other_families() -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve_address("vgg17")
    assert set(MODELS) <= set(caught.value.available)
    assert "torchvision:NAME" in caught.value.available


def test_an_unknown_argument_lists_what_the_model_takes() -> None:
    with pytest.raises(ModelError, match=r"'classes'.*num_classes"):
        resolve_address("vgg16_bn", {"classes": 3})


def test_a_module_is_only_imported_when_the_caller_says_so() -> None:
    sys.modules.pop("this", None)  # a standard module whose import can be seen
    with pytest.raises(ModelError, match="--allow-import"):
        resolve_address("this:anything")
    with pytest.raises(ModelError, match="--allow-import"):
        ModelSource("this:anything").build()
    assert "this" not in sys.modules


def test_an_imported_model_needs_an_input_shape_and_a_callable() -> None:
    with pytest.raises(ModelError, match="--input"):
        resolve_address(f"{__name__}:Drawing", allow_import=True)
    assert resolve_address(f"{__name__}:Drawing", input_shape=(3,), allow_import=True).input_shape == (3,)
    with pytest.raises(UnknownNameError, match="Drawing"):
        resolve_address(f"{__name__}:Nothing", allow_import=True)
    with pytest.raises(ModelError, match="cannot be imported"):
        resolve_address("no_such_module_at_all:f", allow_import=True)
    with pytest.raises(ModelError, match="not a torch"):
        ModelSource("builtins:dict").build(allow_import=True)


@pytest.mark.parametrize(
    ("address", "shape"),
    [
        ("torchvision:squeezenet1_1", (3, 224, 224)),
        ("torchvision:inception_v3", (3, 299, 299)),
        ("timm:mobilenetv3_small_050", (3, 224, 224)),
        ("timm:vit_base_patch16_384", (3, 384, 384)),
    ],
)
def test_models_of_vision_packages_know_their_input_shape(address: str, shape: tuple[int, ...]) -> None:
    pytest.importorskip(address.partition(":")[0])
    assert resolve_address(address).input_shape == shape


@pytest.mark.parametrize("address", ["torchvision:squeezenet1_1", "timm:mobilenetv3_small_050"])
def test_models_of_vision_packages_are_built_untrained_with_arguments(address: str) -> None:
    pytest.importorskip(address.partition(":")[0])
    source = resolve_address(address, {"num_classes": 7}, seed=2)
    model = source.build()
    with torch.no_grad():
        assert model.eval()(example_inputs((3, 64, 64), batch=2)).shape == (2, 7)
    assert state_bytes(model) == state_bytes(source.build())


def test_a_segmentation_model_is_built_without_fetching_a_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("a download was tried"))
    assert isinstance(resolve_address("torchvision:lraspp_mobilenet_v3_large").build(), nn.Module)


@pytest.mark.parametrize(
    ("address", "argument"),
    [
        ("torchvision:resnet18", "weights"),
        ("timm:resnet18", "checkpoint_path"),
        ("timm:resnet18", "pretrained"),
        ("transformers:resnet", "trust_remote_code"),
    ],
)
def test_no_argument_can_load_weights_or_run_downloaded_code(address: str, argument: str) -> None:
    pytest.importorskip(address.partition(":")[0])
    with pytest.raises(ModelError, match="refused"):
        resolve_address(address, {argument: "x"})


@pytest.mark.parametrize("address", ["torchvision:resnet19", "timm:resnet19", "transformers:resnet19"])
def test_an_unknown_name_of_another_package_lists_the_closest(address: str) -> None:
    pytest.importorskip(address.partition(":")[0])
    with pytest.raises(UnknownNameError, match="resnet"):
        resolve_address(address)


def test_a_transformers_model_is_built_from_its_configuration() -> None:
    pytest.importorskip("transformers")
    source = resolve_address("transformers:resnet", {"num_labels": 3, "embedding_size": 8}, input_shape=(3, 64, 64))
    assert resolve_address("transformers:vit").input_shape == (3, 224, 224)
    with torch.no_grad():
        assert source.build().eval()(example_inputs((3, 64, 64)))["logits"].shape == (1, 3)


@pytest.mark.parametrize("address", ["torchvision:resnet18", "timm:resnet18", "transformers:resnet"])
def test_an_absent_package_names_its_extra(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = address.partition(":")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(package), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"pip install 'reconvene\["):
        resolve_address(address)


class Absent:
    """A finder for which one package is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {self.package!r}", name=self.package)


NET = """
from torch import nn
from blocks import block

def make(classes=3):
    from late import late
    return nn.Sequential(block(), late(), nn.Flatten(), nn.Linear(4, classes))
"""


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two folders of a user's, each with a model in a file of the same name, which imports its neighbours."""
    for folder, width in ((tmp_path, 4), (tmp_path / "other", 8)):
        folder.mkdir(exist_ok=True)
        (folder / "usernet.py").write_text(NET.replace("Linear(4", f"Linear({width}"))
        (folder / "blocks.py").write_text("from torch import nn\ndef block(): return nn.Conv2d(3, 4, 2)\n")
        (folder / "late.py").write_text(f"from torch import nn\ndef late(): return nn.Conv2d(4, {width}, 1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # as the installed command has it
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("address", ["usernet:make", "usernet.py:make", "./usernet.py:make"])
def test_a_model_of_the_current_folder_is_found_with_what_it_imports(address: str, user_folder: Path) -> None:
    folders = list(sys.path)
    source = resolve_address(address, {"classes": 5}, input_shape=(3, 2, 2), allow_import=True)
    assert source.build(allow_import=True)(torch.zeros(1, 3, 2, 2)).shape == (1, 5)
    assert sys.path == folders
    with pytest.raises(ModelError, match="--allow-import"):
        resolve_address(address, input_shape=(3, 2, 2))


def test_files_of_one_name_are_modules_of_their_own(user_folder: Path) -> None:
    for address, width in (("usernet.py:make", 4), (f"{user_folder}/other/usernet.py:make", 8)):
        for name in ("late", "blocks"):  # what two folders call alike is one module to Python
            sys.modules.pop(name, None)
        assert ModelSource(address).build(allow_import=True)[-1].in_features == width


def test_what_a_users_file_raises_is_named_with_its_line(user_folder: Path) -> None:
    for code, words in (
        ("1 / 0", "ZeroDivisionError"),
        ("x = = 1", "SyntaxError"),
        ("import sys; sys.exit(3)", "Exit"),
    ):
        (user_folder / "usernet.py").write_text(f"\n\n{code}\n")
        with pytest.raises(ModelError, match=rf"usernet.py cannot be imported: .*{words}.*line 3"):
            resolve_address("usernet.py:make", input_shape=(3, 2, 2), allow_import=True)
    assert "usernet" not in sys.modules
