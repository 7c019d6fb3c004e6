"""One recorded run of a model: every ATen call, with the identity of the tensors it read and made.

The run happens on the meta device: parameters and float buffers are swapped for meta twins (one twin per tensor, so
that ties survive), so nothing is computed and nothing is allocated. Everything swapped is put back, whatever happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from reconvene.errors import ModelError
from reconvene.structure.answers import known_result
from reconvene.structure.borrowed import (
    changed_attributes,
    kept_attributes,
    module_stack,
    paused_collector,
    plain_attention,
    twins,
    values_on_meta,
)
from reconvene.structure.inputs import arguments, map_tensors, tensors_in
from reconvene.structure.opaque import LayerCall, opaque_layers
from reconvene.structure.sizes import SizeLog
from reconvene.structure.traced import traced_sizes

_ATEN = torch.ops.aten


@dataclass(slots=True)
class Op:
    """One recorded ATen call. Tensors in ``args`` and ``kwargs`` are the recorded objects.

    ``outs`` keeps output order.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[Tensor | None, ...]
    owner: str
    training: bool = False

    @property
    def name(self) -> str:
        """Overload name, such as ``aten.convolution.default``."""
        return _name(self.func)

    @property
    def site(self) -> str:
        """Where a person finds this call: the operator and the layer that made it."""
        return f"{_short_name(self.func)} in {self.owner or 'the model itself'}"


@cache
def _name(func: Any) -> str:
    return str(func)


@cache
def _short_name(func: Any) -> str:
    name = str(func).removesuffix(".default")
    return name.split(".")[1] if name.startswith("aten.") else name


@dataclass
class Recording:
    """The calls of one forward pass; tensors are kept alive so that identities stay unique."""

    ops: list[Op] = field(default_factory=list)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    """Twin of every parameter and buffer, by its first name in the model."""
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """All names of a tensor that has more than one."""
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    sizes: SizeLog = field(default_factory=SizeLog)
    device: str = "meta"
    notes: list[str] = field(default_factory=list)


def record(
    model: nn.Module,
    example_inputs: Any,
    *,
    replace: Mapping[str, Tensor] | None = None,
    attributes: Sequence[tuple[str, str, Any]] = (),
    into: Recording | None = None,
) -> Recording:
    """Record one forward pass in eval mode, on meta where every op can run there, else on real tensors.

    ``replace`` gives other shapes to parameters and buffers by name, ``attributes`` other values to module attributes
    ``(module, attribute, value)``: both only while recording, so that a plan can be tried without building its model.
    If some parameter was never read, a pass in train mode is recorded behind the first (auxiliary heads). ``into``
    receives the calls, so that a caller sees how far a failing trial came.

    Raises:
        ModelError: the model does not run on these inputs, or is of a kind that cannot be pruned.
    """
    refuse_unsupported(model)
    into = into if into is not None else Recording()
    try:
        return _record_on(model, example_inputs, into, replace, attributes)
    except (NotImplementedError, RuntimeError, ValueError, TypeError, IndexError) as on_meta:
        if replace is not None:  # a trial of a plan: the caller wants to know where it broke
            raise
        try:
            return _record_on(model, example_inputs, Recording(device="real"), replace, attributes)
        except (NotImplementedError, RuntimeError, ValueError, TypeError, IndexError) as error:
            shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in tensors_in(example_inputs))
            raise ModelError(
                f"the model does not run on the example inputs ({shapes or 'no tensor'}): {error}. "
                "Try: call model(example_inputs) yourself, and give inputs of the shape it expects."
            ) from (on_meta if str(on_meta) == str(error) else error)


def refuse_unsupported(model: nn.Module) -> None:
    """Refuse models whose tensors or code cannot be changed: scripted, compiled, quantised or lazy ones."""
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise ModelError(
            "the model is a TorchScript module, whose code cannot follow smaller tensors. Give the nn.Module."
        )
    if isinstance(model, torch._dynamo.OptimizedModule):
        raise ModelError(
            "the model is compiled by torch.compile. Give the original module, and compile what comes out."
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{name} is a TorchScript module, whose code cannot follow smaller tensors.")
        if "quantized" in type(module).__module__:
            raise ModelError(f"{name} is a quantised module ({type(module).__name__}). Prune first, then quantise.")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ModelError(f"{name} is not initialised yet (a lazy module). Run the model once, then prune it.")


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, recording: Recording, stack: list[str], training: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording, self.stack, self.training = recording, stack, training
        self.twins: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.recording.sizes.active = False  # what kernels do with shapes is their own affair
        try:
            return self._recorded(func, args, kwargs or {})
        finally:
            self.recording.sizes.active = True

    def _recorded(self, func: Any, args: Any, kwargs: Any) -> Any:
        out = None
        # A call on real tensors only (masks and index tables made from sizes) runs for real: code may read its values.
        if self.recording.device == "meta" and any(t.is_meta for t in tensors_in((args, kwargs))):
            args = [self._twin(value) for value in args]
            kwargs = {key: self._twin(value) for key, value in kwargs.items()}
            out = known_result(func, args)
        elif self.recording.device == "meta":
            kwargs = _here(func, args, kwargs)
        if out is None:
            out = func(*args, **kwargs)
        outs = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, (tuple, list)) else ()
        self._note(func, tuple(args), kwargs, tuple(o if isinstance(o, Tensor) else None for o in outs))
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outs: tuple[Tensor | None, ...]) -> None:
        self.recording.ops.append(Op(func, args, kwargs, outs, self.stack[-1], self.training))

    def _twin(self, value: Any) -> Any:
        """Let a real tensor take part in a call on meta: as a twin of the same labels."""
        if isinstance(value, Tensor):
            if value.is_meta or value.ndim == 0:
                return value
            twin = self.twins.get(id(value))
            if twin is None:
                twin = self.twins[id(value)] = value.to("meta")
                self._note(_ATEN.alias.default, (value,), {}, (twin,))
            return twin
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            return [self._twin(v) for v in value]
        return value


def _here(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positions and masks made for a model that lies on meta itself get values all the same: code looks at them."""
    if torch.device("meta") != kwargs.get("device"):
        return kwargs
    dtype = kwargs.get("dtype") or next((t.dtype for t in tensors_in(args)), None)
    if dtype is None and "arange" in func.name() and all(isinstance(a, int) for a in args):
        dtype = torch.int64
    return {**kwargs, "device": torch.device("cpu")} if dtype is not None and not dtype.is_floating_point else kwargs


def _record_on(
    model: nn.Module,
    example_inputs: Any,
    recording: Recording,
    replace: Mapping[str, Tensor] | None,
    attributes: Sequence[tuple[str, str, Any]],
) -> Recording:
    device = recording.device
    with ExitStack() as restore:
        restore.enter_context(torch.random.fork_rng(devices=[]))
        restore.enter_context(paused_collector())
        restore.enter_context(plain_attention())
        restore.enter_context(kept_attributes(model))
        restore.enter_context(twins(model, recording.parameters, recording.aliases, device, replace or {}))
        restore.enter_context(changed_attributes(model, attributes))
        stack = restore.enter_context(module_stack(model))
        if replace is None:
            recording.sizes.stack = stack
            restore.enter_context(traced_sizes(model, recording.sizes))
        if device == "meta":
            restore.enter_context(values_on_meta())
            # Token ids and masks keep their values: code may look at them.
            example_inputs = map_tensors(lambda t: t.to("meta") if t.is_floating_point() else t, example_inputs)
        recording.inputs = tensors_in(example_inputs)
        _run(model, example_inputs, recording, stack, training=False)
        if replace is None and device == "meta" and _untouched(recording):
            _run_training(model, example_inputs, recording, stack)
    return recording


def _run(model: nn.Module, inputs: Any, recording: Recording, stack: list[str], *, training: bool) -> None:
    model.train(True)  # some models clear the tables they cached for eval when they are set to train
    model.train(training)
    args, kwargs = arguments(inputs)

    def note(call: LayerCall, taken: list[Tensor], made: list[Tensor]) -> None:
        recording.ops.append(Op(call, tuple(taken), {}, tuple(made), stack[-1], training))

    with torch.no_grad(), opaque_layers(model, note), _Recorder(recording, stack, training):
        output = model(*args, **kwargs)
    recording.outputs += tensors_in(output)


def _run_training(model: nn.Module, inputs: Any, recording: Recording, stack: list[str]) -> None:
    """Record what only training reads (auxiliary heads). A batch of one is doubled where batch norm refuses it."""
    before = len(recording.ops), len(recording.outputs)
    failure = ""
    for batch in (inputs, map_tensors(lambda t: torch.cat([t, t]) if t.ndim else t, inputs)):
        try:
            _run(model, batch, recording, stack, training=True)
            recording.inputs += [t for t in tensors_in(batch) if all(t is not known for known in recording.inputs)]
            return
        except (NotImplementedError, RuntimeError, ValueError, TypeError, IndexError) as error:
            failure = str(error).split("\n")[0]
            del recording.ops[before[0] :], recording.outputs[before[1] :]
    recording.notes.append(f"the model does not run in train mode on the example inputs ({failure})")


def _untouched(recording: Recording) -> bool:
    read = {id(t) for op in recording.ops for t in tensors_in((op.args, op.kwargs))}
    return any(id(t) not in read for t in recording.parameters.values() if t.is_floating_point() and t.ndim)
