"""The model in the form that exporters understand best: the same function in eval mode, and the caller's untouched."""

from __future__ import annotations

from torch import nn

_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm1d: nn.BatchNorm1d,
    nn.InstanceNorm2d: nn.BatchNorm2d,
    nn.InstanceNorm3d: nn.BatchNorm3d,
}


def eval_form(model: nn.Module) -> nn.Module:
    """``model`` with every instance norm that has running statistics as the batch norm that it is in eval mode.

    ncnn's instance norm has no running statistics, and other exporters write some twenty operators for it. Modules on
    the way to a norm are copied, all others and all tensors are shared; without such a norm it is ``model`` itself.
    """
    replaced = {
        name: _batch_norm(module)
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) in _NORMS and getattr(module, "running_mean", None) is not None
    }
    return with_modules(model, replaced) if replaced else model


def with_modules(model: nn.Module, replaced: dict[str, nn.Module]) -> nn.Module:
    """A copy of ``model`` that shares everything but the modules of these names, and those that they lie in."""
    if "" in replaced:
        return replaced[""]
    inside: dict[str, dict[str, nn.Module]] = {}
    for name, module in replaced.items():
        child, _, inner_name = name.partition(".")
        inside.setdefault(child, {})[inner_name] = module
    # neither deepcopy nor copy: locks and the like cannot be copied, and some classes copy in a way of their own
    copied: nn.Module = object.__new__(type(model))
    children = dict(model._modules)
    for child, changes in inside.items():
        before = children[child]
        assert before is not None, "it was listed by name"
        children[child] = with_modules(before, changes)
    copied.__dict__ = {**model.__dict__, "_modules": children}
    return copied


def _batch_norm(norm: nn.Module) -> nn.Module:
    assert isinstance(norm, (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d))
    twin = _NORMS[type(norm)](norm.num_features, eps=norm.eps, affine=norm.affine)
    for store in (norm._parameters, norm._buffers):
        for name, tensor in store.items():
            setattr(twin, name, tensor)
    return twin.train(norm.training)
