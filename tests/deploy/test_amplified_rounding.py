"""A network that amplifies rounding: its file is judged by float64, and a wrong file is refused all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.deploy import installed, verify_export
from reconvene.deploy.rounding import RoundingErrors
from reconvene.errors import VerificationError

pytestmark = pytest.mark.skipif("onnxruntime" not in installed(), reason="the onnx extra is not installed")


class Cancelling(nn.Module):
    """Sums of thousands of terms that almost cancel: what is left hangs on the order of addition."""

    def __init__(self, rest: float, *, off: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.spread = nn.Linear(16, 4096)
        self.gather = nn.Linear(4096, 8, bias=False)
        with torch.no_grad():
            self.spread.weight.copy_(torch.randn(4096, 16, generator=generator))
            weight = torch.randn(8, 2048, generator=generator)
            small = torch.randn(8, 2048, generator=generator) * rest
            # The second half of the hidden units is the first half again, and their weights are of the other sign.
            self.spread.weight[2048:] = self.spread.weight[:2048]
            self.spread.bias.zero_()
            self.gather.weight.copy_(torch.cat([weight, small - weight], 1))
            self.gather.weight[:, 0] += off * rest

    def forward(self, x: Tensor) -> Tensor:
        return self.gather(self.spread(x).relu())


def test_a_file_as_exact_as_pytorch_is_accepted_and_says_so(tmp_path: Path) -> None:
    network, x = Cancelling(1e-4).eval(), torch.randn(4, 16)
    result = rc.export(network, tmp_path, format="onnx", example_inputs=x).verification
    assert result.max_rel_error > result.tolerance
    assert result.rounding is not None and result.rounding.explains(result.tolerance)
    assert "amplifies rounding: from float64, PyTorch in float32 is off by" in str(result)
    assert result.to_dict()["rounding"]["pytorch"] == result.rounding.pytorch
    with pytest.raises(VerificationError, match="disagrees with PyTorch"):
        rc.export(network, tmp_path / "strict", format="onnx", example_inputs=x, tolerance=1e-4)


def test_a_file_within_the_tolerance_of_float64_is_right_however_far_pytorch_is() -> None:
    """A spiking network: rounding flips a spike in PyTorch, and not in the file."""
    assert RoundingErrors(pytorch=0.11, file=3e-7).explains(1e-4)
    assert not RoundingErrors(pytorch=2e-7, file=0.17).explains(1e-4)


def test_a_file_of_another_network_is_refused_by_float64(tmp_path: Path) -> None:
    network, x = Cancelling(1e-4).eval(), torch.randn(4, 16)
    path = rc.export(Cancelling(1e-4, off=300.0).eval(), tmp_path, format="onnx", example_inputs=x).path
    with pytest.raises(VerificationError, match=r"in float32 is off by .*, and the file by"):
        verify_export(network, path, example_inputs=x)


def test_where_float32_says_nothing_no_file_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="PyTorch in float32 is off by"):
        rc.export(Cancelling(1e-7).eval(), tmp_path, format="onnx", example_inputs=torch.randn(4, 16))


def test_a_network_that_does_not_amplify_is_not_computed_in_float64(tmp_path: Path) -> None:
    exported = rc.export(nn.Linear(4, 2).eval(), tmp_path, format="onnx", example_inputs=torch.randn(2, 4))
    assert exported.verification.rounding is None
