"""How an exported model is fed and read: names of inputs and outputs, batches of any size, the model left as it was."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reconvene.errors import MODEL_REFUSALS, DataError, ExportError, ModelError
from reconvene.structure.fresh import call_afresh
from reconvene.structure.inputs import arguments, map_tensors
from reconvene.structure.restore import kept_attributes
from reconvene.structure.state import clear_state, is_known, kept_values, known_state, own_instances
from reconvene.utils.module_state import evaluating as in_eval_mode
from reconvene.utils.module_tree import device_of


@contextmanager
def in_inference(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` in eval mode without gradients; every module's mode and the CPU random state come back afterwards."""
    random_state = torch.get_rng_state()
    try:
        with torch.no_grad(), in_eval_mode(model), _afresh(model):
            yield model
    finally:
        torch.set_rng_state(random_state)


@contextmanager
def _afresh(model: nn.Module) -> Iterator[None]:
    """Within: a model with state starts as a newly built one; afterwards it holds what it held, counters too."""
    if is_known(model) and not known_state(model):
        with kept_values(model, buffers=True):
            yield
        return
    with kept_attributes(model), kept_values(model, buffers=True), own_instances(model):
        clear_state(model)
        yield


def own_inputs(model: nn.Module, example_inputs: Any, *, seed: int = 0) -> Any:
    """The example inputs given, on the model's device; without any, seeded noise of the shape the model was built for.

    A model that came from us carries ``reconvene_source`` with an ``input_shape``. ExportError when neither is there.
    """
    if example_inputs is None:
        shape = getattr(getattr(model, "reconvene_source", None), "input_shape", None)
        if shape is None:
            raise ExportError(
                f"what {type(model).__name__} takes is not known, since Reconvene did not build it. "
                "Pass example_inputs, such as torch.randn(1, 3, 32, 32)"
            )
        example_inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    device = device_of(model)
    return map_tensors(lambda tensor: tensor.to(device), example_inputs)


def outputs_of(model: nn.Module, example_inputs: Any) -> dict[str, Tensor]:
    """Run ``model`` (in the mode it is in) and name every tensor it returns. Raises ModelError when it does not run."""
    try:
        outputs = named_tensors(call_afresh(model, example_inputs), "output")
    except MODEL_REFUSALS as error:
        shapes = [tuple(tensor.shape) for tensor in leaves(example_inputs)]
        raise ModelError(
            f"{type(model).__name__} does not run on inputs of shape {shapes}: {type(error).__name__}: {error}"
        ) from error
    if not outputs:
        raise ModelError(f"{type(model).__name__} returns no tensor: there is nothing to compare or to deploy")
    return outputs


def named_tensors(tree: Any, prefix: str) -> dict[str, Tensor]:
    """Tensors of a nest of containers by their path: ``output``, ``output_1``, ``aux.0``; anything else is left out.

    A dataclass is a container of its fields.
    """
    tensors: dict[str, Tensor] = {}
    for path, leaf in pytree.tree_flatten_with_path(_opened(tree))[0]:
        if not isinstance(leaf, Tensor):
            continue
        parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
        name = ".".join(parts)
        tensors[prefix if not parts else f"{prefix}_{name}" if parts[0].isdigit() else name] = leaf
    return tensors


def _opened(tree: Any) -> Any:
    """The nest with maps in place of dataclasses, but for those that PyTorch itself sees as containers."""

    def opened(leaf: Any) -> Any:
        if not is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        return _opened({field.name: getattr(leaf, field.name) for field in fields(leaf)})

    return pytree.tree_map(opened, tree)


def input_names(model: nn.Module, example_inputs: Any) -> list[str]:
    """One name per input tensor, in order: keys of keyword inputs, or the parameter names of ``model.forward``."""
    args, kwargs = arguments(example_inputs)
    if kwargs:
        return list(named_tensors(kwargs, "input"))
    parameters = inspect.signature(model.forward).parameters.values()
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return list(
        named_tensors({plain[i] if i < len(plain) else f"input_{i}": arg for i, arg in enumerate(args)}, "input")
    )


def by_name(example_inputs: Any, names: list[str], file_format: str) -> dict[str, Tensor]:
    """Inputs by the names in a file: keyword inputs go by name, positional ones in order. Raises ModelError."""
    tensors = named_tensors(example_inputs, "input")
    if not isinstance(example_inputs, Mapping) and len(tensors) == len(names):
        tensors = dict(zip(names, tensors.values(), strict=True))
    if set(tensors) != set(names):
        raise ModelError(f"the {file_format} model takes {names}, but was given {list(tensors)}")
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def leaves(tree: Any) -> list[Tensor]:
    """Tensors of a nest of containers, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def batch_size(example_inputs: Any) -> int:
    """First dimension of the first input tensor that has one."""
    for tensor in leaves(example_inputs):
        if tensor.ndim:
            return int(tensor.shape[0])
    raise ModelError("the example inputs hold no tensor with a batch dimension")


def is_batched(tensor: Tensor, batch: int) -> bool:
    """Whether a tensor's first dimension is the batch size; a table or a scalar is passed as it is."""
    return tensor.ndim > 0 and tensor.shape[0] == batch


def take_samples(example_inputs: Any, start: int, count: int) -> Any:
    """``count`` samples from ``start`` on, wrapping around at the end."""
    batch = batch_size(example_inputs)
    index = _cycle(start, count, batch)
    return map_tensors(lambda tensor: tensor[index] if is_batched(tensor, batch) else tensor, example_inputs)


def noise(example_inputs: Any, count: int, *, seed: int) -> Any:
    """``count`` samples like the examples: standard normal where they are floating point, repetitions elsewhere.

    Token ids and masks have a meaning that noise would break, hence the repetition.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = batch_size(example_inputs)

    def fresh(tensor: Tensor) -> Tensor:
        if not is_batched(tensor, batch):
            return tensor
        if not tensor.is_floating_point():
            return tensor[_cycle(0, count, batch)]
        return torch.randn((count, *tensor.shape[1:]), generator=generator).to(tensor)

    return map_tensors(fresh, example_inputs)


def _cycle(start: int, count: int, batch: int) -> list[int]:
    return [(start + i) % batch for i in range(count)]


def labelled_samples(data: Iterable[Any], limit: int) -> tuple[Any, Tensor | None]:
    """The inputs of up to ``limit`` samples, joined, and their targets where every batch has a tensor of them.

    ``data`` is an iterable of ``(inputs, target)`` batches, or of bare inputs (a tensor or a mapping).
    Raises DataError when there are none.
    """
    pieces: list[Any] = []
    sizes: list[int] = []
    targets: list[Tensor] = []
    for batch in data:
        inputs = batch if isinstance(batch, (Tensor, Mapping)) else batch[0]
        target = None if isinstance(batch, (Tensor, Mapping)) or len(batch) < 2 else batch[1]
        available = batch_size(inputs)
        count = min(available, limit - sum(sizes))
        if count:
            pieces.append(take_samples(inputs, 0, count))
            sizes.append(count)
            if isinstance(target, Tensor) and is_batched(target, available):
                targets.append(target[:count])
        if sum(sizes) >= limit:
            break
    if not pieces:
        raise DataError("the data to verify with holds no sample")
    flat = [pytree.tree_leaves(piece) for piece in pieces]
    joined = [
        torch.cat(parts) if isinstance(parts[0], Tensor) and is_batched(parts[0], sizes[0]) else parts[0]
        for parts in zip(*flat, strict=True)
    ]
    inputs = pytree.tree_unflatten(joined, pytree.tree_structure(pieces[0]))
    return inputs, torch.cat(targets) if len(targets) == len(pieces) else None
