"""Train and eval mode: set, borrowed, given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from reconvene.utils.module_tree import modules_of, named_modules, set_mode, takes_mode_plainly


def forget_tables(model: nn.Module) -> None:
    """Have modules drop the tables that they cached for eval mode; every mode stays as it is.

    Such a table (LeViT's attention biases) holds the weights and the precision of an earlier run, and modules drop it
    when they are set to train.
    """
    if not takes_mode_plainly(named_modules(model)):
        with kept_modes(model):
            model.train(True)


def afresh_in_eval(model: nn.Module) -> nn.Module:
    """Set the model to eval mode without the tables that modules cached there (see ``forget_tables``); the model."""
    set_mode(model, False)
    return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; afterwards every module is in the mode it was in."""
    with kept_modes(model):
        model.eval()
        yield


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Whatever is set within: afterwards every module is in the mode it was in, also where they were mixed."""
    modes = [(module, module.training) for module in modules_of(model)]
    try:
        yield
    finally:
        for module, training in modes:
            if module.training is not training:
                module.training = training
