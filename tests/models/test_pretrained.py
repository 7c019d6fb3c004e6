"""Published weights are taken from where their own programs put them, and are never fetched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from reconvene.artifact.weights import load_weights
from reconvene.errors import ArtifactError, ModelError
from reconvene.models import resolve_address
from reconvene.models.pretrained import pretrained_file


def test_weights_of_torchvision_come_from_the_hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address = "torchvision:squeezenet1_1"
    with pytest.raises(ModelError, match=r"not on this machine: nothing at .*squeezenet1_1-.*pth\. torchvision's"):
        pretrained_file(address)
    trained = resolve_address(address, seed=5).build()
    place = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    place.parent.mkdir(parents=True)
    torch.save(trained.state_dict(), place)
    model = resolve_address(address).build()
    load_weights(model, pretrained_file(address))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))


def test_weights_of_timm_come_from_its_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address = "timm:resnet10t"
    with pytest.raises(ModelError, match=r"resnet10t\.c3_in1k.* and .*resnet10t_176_c3-f3215ab1\.pth"):
        pretrained_file(address)
    place = tmp_path / "hub" / "checkpoints" / "resnet10t_176_c3-f3215ab1.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    assert pretrained_file(address) == place


def test_other_models_have_none() -> None:
    with pytest.raises(ModelError, match="resnet20 has no published weights"):
        pretrained_file("resnet20")


def test_densenets_are_read_as_torchvision_publishes_them(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    trained = resolve_address("torchvision:densenet121", seed=5).build()
    published = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): value
        for name, value in trained.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert any(".norm.1." in name for name in published)
    torch.save(published, tmp_path / "published.pth")
    model = resolve_address("torchvision:densenet121").build()
    load_weights(model, tmp_path / "published.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.head.weight = self.embedding.weight


def test_shared_weights_are_read_from_files_that_hold_them_once(tmp_path: Path) -> None:
    trained, model = Tied(), Tied()
    save_model(trained, str(tmp_path / "tied.safetensors"))
    load_weights(model, tmp_path / "tied.safetensors")
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight, trained.head.weight)
    other = {name: value for name, value in trained.state_dict().items() if name.startswith("norm")}
    torch.save(other, tmp_path / "none.pth")
    with pytest.raises(ArtifactError, match=r"lacks 2 weights, first 'embedding\.weight'"):
        load_weights(model, tmp_path / "none.pth")
