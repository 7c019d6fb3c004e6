"""The modules of a model as lists, their device and their mode.

PyTorch walks them by generators within generators, which costs more than all else that is done with a module.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """``model.named_modules()``: every module once, by its first path, parents before children."""
    modules: list[tuple[str, nn.Module]] = []
    visited: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        entry = waiting.pop()
        path, module = entry
        if id(module) in visited:
            continue
        visited.add(id(module))
        modules.append(entry)
        if children := module._modules:
            prefix = f"{path}." if path else ""
            waiting += [(prefix + name, m) for name, m in reversed(list(children.items())) if m is not None]
    if all(kind.named_modules is nn.Module.named_modules for kind in _kinds(modules)):
        return modules
    return list(model.named_modules())


def modules_of(model: nn.Module) -> list[nn.Module]:
    """``model.modules()``: every module once, parents before children."""
    return [module for _, module in named_modules(model)]


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter or buffer of the model is; the CPU for a model without any."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


def set_mode(model: nn.Module, training: bool) -> None:
    """Set the model to train mode and then to the mode that is asked for.

    Some models clear the tables they cached for eval when they are set to train.
    """
    modules = named_modules(model)
    if takes_mode_plainly(modules):
        for _, module in modules:
            module.__dict__["training"] = training
    else:
        model.train(True)
        model.train(training)


def takes_mode_plainly(modules: list[tuple[str, nn.Module]]) -> bool:
    """Whether setting the mode of these modules does nothing but set their attribute ``training``."""
    return all(_is_plain(kind) for kind in _kinds(modules)) and not any(
        "train" in module.__dict__ for _, module in modules
    )


def _kinds(modules: list[tuple[str, nn.Module]]) -> set[type[nn.Module]]:
    return {type(module) for _, module in modules}


def _is_plain(kind: type[nn.Module]) -> bool:
    inherited = kind.train is nn.Module.train and kind.__setattr__ is nn.Module.__setattr__
    return inherited and not hasattr(kind, "training")


def set_attribute(module: nn.Module, name: str, value: object) -> None:
    """``setattr(module, name, value)`` of a value that is no tensor and no module.

    An attribute that lies in the module's ``__dict__`` is set there; modules look for other places first.
    """
    kind = type(module)
    if name in module.__dict__ and kind.__setattr__ is nn.Module.__setattr__ and not hasattr(kind, name):
        module.__dict__[name] = value
    else:
        setattr(module, name, value)
