"""Published weights are taken from where their own programs put them, and are never fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reconvene.artifact.weights import load_weights
from reconvene.errors import ModelError
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
