"""Segmentation networks of other packages have addresses, and shrink as the silenced reference says."""

from __future__ import annotations

import pytest
import torch

import reconvene as rc
from reconvene.errors import ModelError, UnknownNameError
from reconvene.models import resolve_address

UNETS = {
    "smp:Unet": ("segmentation_models_pytorch", {"encoder_name": "resnet18", "encoder_depth": 5}),
    "monai:BasicUNet": ("monai", {"spatial_dims": 2, "in_channels": 3}),
}


@pytest.mark.parametrize("address", UNETS)
def test_a_network_has_the_outputs_of_the_data_and_shrinks_exactly(address: str) -> None:
    package, args = UNETS[address]
    pytest.importorskip(package)
    source = resolve_address(address, args).with_classes(3)
    model, x = source.build().eval(), torch.randn(1, 3, 32, 32)
    assert model(x).shape == (1, 3, 32, 32)
    plan = rc.plan(model, x, rc.Budget(params="2x"))
    with torch.no_grad():
        torch.testing.assert_close(plan.apply(model).eval()(x), plan.mask(model).eval()(x), rtol=1e-4, atol=1e-4)


def test_weights_of_an_encoder_are_not_fetched_and_other_names_are_listed() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(ModelError, match="'encoder_weights' is refused"):
        resolve_address("smp:Unet", {"encoder_weights": "imagenet"})
    with pytest.raises(UnknownNameError, match="Unet"):
        resolve_address("smp:Unett")
