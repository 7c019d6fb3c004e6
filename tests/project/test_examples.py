"""Other tools take a pruned network as the ordinary module it is: every example runs, and does what it says.

``make examples`` installs what they need and runs all; where a package is absent its example is skipped, by name.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import reconvene as rc
from reconvene import artifact
from reconvene.data import load_data
from reconvene.training import evaluate_split
from support.cli_calls import prune
from support.paths import ROOT

EXAMPLES = ROOT / "examples"
# A first import of these frameworks and a compiler take most of the time.
pytestmark = pytest.mark.filterwarnings("ignore")


def example(name: str, *needed: str) -> ModuleType:
    for package in needed:
        pytest.importorskip(package, reason=f"{package} is not installed: make examples brings it")
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # timm's registry looks the module of a builder up
    spec.loader.exec_module(module)
    return module


def learned(network: nn.Module, losses: list[float], folder: Path) -> None:
    """It got better, is still the pruned network, and can be kept."""
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert evaluate_split(network, load_data("digits", input_shape=(3, 32, 32), limit=300)).accuracy > 0.2
    rc.save(network, folder)
    again = rc.load(folder)
    assert again.reconvene_plan is not None
    for one, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_every_example_is_tested() -> None:
    tested = Path(__file__).read_text()
    assert all(f'example("{path.stem}"' in tested for path in EXAMPLES.glob("*.py"))


def test_a_plain_loop_trains_it() -> None:
    _, losses, accuracy = example("plain_pytorch").main(epochs=2)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5]) and accuracy > 0.9


def test_a_trained_segmenter_keeps_what_it_can() -> None:
    scores = example("segmentation").main(steps=25)
    assert scores["dense"] > 0.7
    assert scores["cut and repaired"] > scores["dense"] - 0.1 and scores["trained on"] > scores["dense"] - 0.05


def test_sound_goes_through_convolutions_and_a_gru_into_a_verified_file(tmp_path: Path) -> None:
    _, losses, accuracy = example("audio", "onnxscript", "onnxruntime").main(tmp_path, steps=30)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5]) and accuracy > 0.5
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_the_trainer_of_transformers_trains_it() -> None:
    _, losses = example("huggingface_trainer", "transformers", "accelerate", "sklearn").main()
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_the_notebook_runs_and_shows_tables_and_pictures() -> None:
    notebook = json.loads((EXAMPLES / "first_hour.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "a notebook is kept without outputs"
            *body, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module([*body], []), "cell", "exec"), names)
            if isinstance(last, ast.Expr):
                shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
            else:
                exec(compile(ast.Module([last], []), "cell", "exec"), names)
    assert sum(hasattr(value, "_repr_html_") for value in shown) >= 4  # groups, sensitivity, plan, data frame
    assert sum(hasattr(value, "_repr_svg_") for value in shown) == 2
    assert isinstance(names["accuracy"], float) and names["accuracy"] > 0.9


@pytest.mark.slow
def test_lightning_trains_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    learned(*example("lightning_fit", "lightning", "sklearn").main(), tmp_path / "a")


@pytest.mark.slow
def test_accelerate_trains_it(tmp_path: Path) -> None:
    learned(*example("accelerate_loop", "accelerate", "sklearn").main(), tmp_path / "a")


@pytest.mark.slow
def test_timm_trains_it(tmp_path: Path) -> None:
    module = example("timm_train", "timm", "sklearn")
    prune(tmp_path / "a")
    _, losses = module.main(str(tmp_path / "a"))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    with pytest.raises(ValueError, match="cannot become"):
        module.reconvene_artifact(str(tmp_path / "a"), num_classes=7)


SCRIPT = """
import sys, timm
name, _, artifact = sys.argv[1:4]
model = timm.create_model(name, pretrained=False, in_chans=3, num_classes=10, drop_rate=0.0, artifact=artifact)
print("parameters", sum(p.numel() for p in model.parameters()))
"""


@pytest.mark.slow
def test_a_script_of_timms_finds_it(tmp_path: Path) -> None:
    """A stand-in that builds its model as timm's script does; the script itself is in no package of timm's."""
    example("timm_train", "timm")
    prune(tmp_path / "a")
    (tmp_path / "train.py").write_text(SCRIPT)
    words = [EXAMPLES / "timm_train.py", tmp_path / "train.py", "reconvene_artifact", "--model-kwargs", tmp_path / "a"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    plan = artifact.read_plan(tmp_path / "a")
    assert plan is not None
    assert done.stdout.split() == ["parameters", str(plan.costs["pruned"]["params"])], done.stderr


@pytest.mark.slow
def test_timms_own_script_trains_it(tmp_path: Path) -> None:
    script = os.environ.get("RECONVENE_TIMM_TRAIN")
    if script is None:
        pytest.skip("RECONVENE_TIMM_TRAIN does not name timm's train.py, which lies in its repository only")
    example("timm_train", "timm", "PIL", "sklearn")
    from PIL import Image

    prune(tmp_path / "a")
    data = load_data("digits", input_shape=(3, 32, 32), limit=60)
    for split, part in (("train", data.train), ("validation", data.test)):
        for number, (image, label) in enumerate(zip(part.images, part.targets, strict=True)):
            folder = tmp_path / "images" / split / str(int(label))
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    options = f"--model reconvene_artifact --model-kwargs artifact={tmp_path / 'a'} --data-dir {tmp_path / 'images'} "
    options += (
        "--input-size 3 32 32 --num-classes 10 --epochs 1 --batch-size 10 --device cpu --workers 1 --no-prefetcher"
    )
    command = [sys.executable, EXAMPLES / "timm_train.py", script, *options.split(), "--output", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").rglob("summary.csv"))


@pytest.mark.slow
def test_compile_keeps_the_answers() -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no C++ compiler here, which torch.compile needs on a processor")
    plain, compiled = example("torch_compile").main()
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


def test_torchao_quantises_it() -> None:
    network, before, after = example("torchao_int8", "torchao").main()
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert all(type(layer.weight) is not nn.Parameter or "int8" in str(layer.weight).lower() for layer in layers)
    error = (before - after).abs().max() / before.abs().max()
    assert 0 < error < 0.1, "int8 is close to float32, and is not float32"
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.95


def test_torch_pruning_prunes_it_further() -> None:
    network, (dense, small, smaller) = example("torch_pruning_further", "torch_pruning").main()
    assert dense > small > smaller
    assert network.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.slow
def test_digits_are_recognised_under_encryption() -> None:
    module = example("encrypted_digits", "tenseal")
    torch.manual_seed(0)
    data = load_data("digits", input_shape=(1, 8, 8))
    images = data.normalise(data.test.images[:300])
    dense = module.build(64)
    pruned = rc.prune(dense, images[:1], budget=rc.Budget(macs="4x"))
    for net in (module.train(dense, data), module.train(pruned, data)):
        network, run = module.encrypted(net, images)
        expected = net(images).detach().double()
        assert float((run.scores - expected).abs().max()) < 1e-2
        assert bool((run.scores.argmax(1) == expected.argmax(1)).all())
        assert run.levels == network.readiness.levels and run.ciphertexts == network.readiness.ciphertexts
        squares = net[1].out_features
        assert run.products == rc.measure(net, images[:1]).macs + squares, "time is in benchmarks/encrypted_time.py"
