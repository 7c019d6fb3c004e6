"""Activations in place are exported as operators, not as traces of definitions, and still change their input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import reconvene as rc
from reconvene.deploy import installed
from reconvene.deploy.runtimes.onnx.in_place import CopiedActivations

KINDS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.LeakyReLU, nn.ELU)


class Operators(TorchDispatchMode):
    """Remembers the operators that are called within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_input_changes_as_it_does_in_place(kind: type[nn.Module]) -> None:
    values = torch.linspace(-8, 8, 33)
    expected, given = values.clone(), values.clone()
    kind(inplace=True)(expected)
    with CopiedActivations(), Operators() as called:
        result = kind(inplace=True)(given)
    assert result.data_ptr() == given.data_ptr() and torch.equal(given, expected) and not torch.equal(given, values)
    in_place = [name for name in called.names if name.endswith("_") and name != "copy_"]
    assert in_place == (["relu_"] if kind is nn.ReLU else []), "the exporter has an operator for relu in place only"


def test_input_by_keyword_and_calls_out_of_place() -> None:
    x = torch.tensor([-1.0, 7.0])
    with CopiedActivations():
        assert F.relu6(x).tolist() == [0, 6] and x.tolist() == [-1, 7]
        assert F.relu6(input=x, inplace=True) is x and x.tolist() == [0, 6]


class ReadsAgain(nn.Module):
    """Reads the input of an activation after it: it has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.activation = nn.Hardswish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(self.activation(y)) + y[:, :4]


@pytest.mark.skipif("onnxruntime" not in installed(), reason="the onnx extra is not installed")
def test_a_file_computes_what_the_network_does(tmp_path: Path) -> None:
    import onnx

    model, x = ReadsAgain().eval(), torch.randn(2, 3, 8, 8)
    exported = rc.export(model, tmp_path, format="onnx", example_inputs=x)
    assert exported.verification is not None
    kinds = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert kinds.count("HardSwish") == 1, kinds
