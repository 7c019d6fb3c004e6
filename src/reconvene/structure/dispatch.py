"""The base of all dispatch modes here: what sees every ATen call of a pass."""

from __future__ import annotations

import sys
from types import MethodType

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that leaves the compiler out where no model is compiled.

    PyTorch wraps the method of a mode so that ``torch.compile`` does not trace it. The wrapper imports
    ``torch._dynamo`` at the first call, which takes more than half as long as ``import torch``. So the method is
    wrapped only where compiling has imported it already.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is not None:
            wrapped = dynamo.disable(type(self).__torch_dispatch__)
            self.__torch_dispatch__ = MethodType(wrapped, self)  # type: ignore[method-assign]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
