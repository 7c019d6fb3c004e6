"""One recorded run of a model: every ATen call, with the identity of the tensors it read and made.

The run happens on the meta device: parameters and float buffers are swapped for meta twins (one twin per tensor, so
that ties survive), so nothing is computed and nothing is allocated. Everything swapped is put back, whatever happens.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from reconvene.errors import ModelError, ReconveneError
from reconvene.structure.custom_layers import LayerCall, opaque_layers
from reconvene.structure.find_state import Try, find_state, runs_afresh, written_state
from reconvene.structure.inputs import arguments, copied, map_tensors, tensors_in
from reconvene.structure.patches import canonical_calls, exclusive, values_on_meta
from reconvene.structure.recorder import Recorder
from reconvene.structure.recording import Op, Recording
from reconvene.structure.restore import (
    changed_attributes,
    kept_attributes,
    kept_random_state,
    module_stack,
    paused_collector,
    twins,
)
from reconvene.structure.size_tracing import traced_sizes
from reconvene.structure.state import (
    StateItem,
    clear_state,
    kept_values,
    known_state,
    own_instances,
    possible_state,
    remember_state,
    snapshot,
    state_buffers,
)
from reconvene.structure.values import ValueAnswers, ValueCollector, noted_methods
from reconvene.utils.module_tree import named_modules, set_mode
from reconvene.utils.notes import Note
from reconvene.utils.resources import resource_error


def record_forward(
    model: nn.Module,
    example_inputs: Any,
    *,
    replace: Mapping[str, Tensor] | None = None,
    attributes: Sequence[tuple[str, str, Any]] = (),
    into: Recording | None = None,
) -> Recording:
    """Record one forward pass in eval mode, on meta where every op can run there, else on real tensors.

    A forward pass that reads values is run once on real tensors; its answers are handed to the pass on meta
    (``values``), and the recording notes that it follows one branch. If some parameter was never read, a pass in train
    mode is recorded behind the first (auxiliary heads).

    ``replace`` gives other shapes to parameters and buffers by name, ``attributes`` other values to module attributes
    ``(module, attribute, value)``: both only while recording, so that a plan can be tried without building its model.
    Such a trial goes ``into`` a recording with the device and the answers of the first one, so that a caller sees how
    far it came; whatever it raises is the caller's to judge.

    Raises:
        ModelError: the model does not run on these inputs, or is of a kind that cannot be pruned.
    """
    refuse_unsupported(model)
    if replace is not None:
        return _record_on(model, example_inputs, into or Recording(), replace, attributes)
    try:
        recording = _record(model, example_inputs, attributes)
    except ModelError:
        # It may not run only because it was run on a batch of another size before.
        if not possible_state(model) or not runs_afresh(model, _trial(model, example_inputs, Recording())):
            raise
        recording = _record(model, example_inputs, attributes)
    if {(state.module, state.name) for state in recording.written} != {(s.module, s.name) for s in known_state(model)}:
        find_state(model, recording.written, _trial(model, example_inputs, recording))
        recording = _record(model, example_inputs, attributes)
    if not recording.written:
        remember_state(model, ())
    return recording


def settle_state(model: nn.Module, example_inputs: Any) -> None:
    """Find the state of a model that may not have been analysed; none of a model that cannot be recorded."""
    with suppress(ReconveneError):
        record_forward(model, example_inputs)


def _trial(model: nn.Module, example_inputs: Any, recording: Recording) -> Try:
    """A function that records the model, on the device of a recording, with other state started afresh."""

    def attempt(states: Sequence[StateItem]) -> Recording | None:
        repeated = Recording(device=recording.device, values=recording.values)
        try:
            return _record_on(model, example_inputs, repeated, {}, (), states)
        except Exception:  # noqa: BLE001 -- foreign code
            return None

    return attempt


def _record(model: nn.Module, example_inputs: Any, attributes: Sequence[tuple[str, str, Any]]) -> Recording:
    """The first recording of a model, its known state started afresh."""
    values = ValueAnswers()
    failure: Exception | None = None
    for device in ("meta", "meta", "meta", "real"):
        recording = Recording(device=device, values=values)
        try:
            _record_on(model, example_inputs, recording, None, attributes)
            failure = None
        except Exception as error:  # noqa: BLE001 -- a forward pass is foreign code, which may raise anything
            failure = error
        answered = set(values.modes)
        for training in sorted({*recording.lacking, *([False] if failure is not None else [])} - answered):
            _read_values(model, example_inputs, values, training=training, failure=failure)
        if failure is None and values.modes == answered:
            return _with_guards(recording)
    raise _does_not_run(example_inputs, failure) from failure


def _read_values(
    model: nn.Module, example_inputs: Any, values: ValueAnswers, *, training: bool, failure: Exception | None
) -> None:
    """Run the model on its real tensors and note what it reads. Raises ModelError where it does not run in eval."""
    values.modes.add(training)
    with ExitStack() as restore:
        _enter_common(restore, model)
        restore.enter_context(twins(model, {}, {}, "real", {}, state_buffers(model)))
        clear_state(model)
        stack = restore.enter_context(module_stack(model))
        restore.enter_context(noted_methods(values, stack, training))
        try:
            _forward(model, copied(example_inputs), ValueCollector(values, stack, training), training=training)
        except Exception as error:  # noqa: BLE001 -- foreign code
            if not training:
                raise _does_not_run(example_inputs, error) from (failure if str(failure) == str(error) else error)


def _with_guards(recording: Recording) -> Recording:
    if recording.guards:
        read = ", ".join(list(recording.guards)[:3]) + (", ..." if len(recording.guards) > 3 else "")
        text = f"the forward pass reads values ({read}): the plan holds for the branches that the example inputs take"
        recording.notes.append(Note(text, "branch"))
    return recording


def _does_not_run(example_inputs: Any, error: Exception | None) -> ReconveneError:
    if error is not None and (explanation := resource_error(error)) is not None:
        return explanation
    shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in tensors_in(example_inputs))
    return ModelError(
        f"the model does not run on the example inputs ({shapes or 'no tensor'}): {str(error).rstrip('.')}. "
        "Try: inputs of the shape it expects (--input CxHxW, one example without the batch), or a model that is "
        "built for this one (of timm: --model-arg img_size=96)."
    )


def refuse_unsupported(model: nn.Module) -> None:
    """Refuse models whose tensors or code cannot be changed: scripted, compiled, quantised or lazy ones."""
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise ModelError(
            "the model is a TorchScript module, whose code cannot follow smaller tensors. Give the nn.Module."
        )
    dynamo = sys.modules.get(
        "torch._dynamo.eval_frame"
    )  # importing it takes two seconds, and compiling has imported it
    if dynamo is not None and isinstance(model, dynamo.OptimizedModule):
        raise ModelError(
            "the model is compiled by torch.compile. Give the original module, and compile what comes out."
        )
    modules = named_modules(model)
    for name, module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{name} is a TorchScript module, whose code cannot follow smaller tensors.")
        if "quantized" in type(module).__module__:
            raise ModelError(f"{name} is a quantised module ({type(module).__name__}). Prune first, then quantise.")
    for path, module in modules:
        parameters: Mapping[str, Any] = module._parameters
        for key, parameter in parameters.items():
            if is_lazy(parameter):
                name = f"{path}.{key}" if path else key
                raise ModelError(f"{name} is not initialized yet (a lazy module). Run the model once, then prune it.")


def _record_on(
    model: nn.Module,
    example_inputs: Any,
    recording: Recording,
    replace: Mapping[str, Tensor] | None,
    attributes: Sequence[tuple[str, str, Any]],
    states: Sequence[StateItem] | None = None,
) -> Recording:
    device = recording.device
    states = known_state(model) if states is None else states
    with ExitStack() as restore:
        _enter_common(restore, model)
        skip = state_buffers(model, states)
        restore.enter_context(twins(model, recording.parameters, recording.aliases, device, replace or {}, skip))
        clear_state(model, states)
        _refuse_changed(recording)
        restore.enter_context(changed_attributes(model, attributes))
        stack = restore.enter_context(module_stack(model, recording.leave))
        if replace is None:
            recording.sizes.stack = stack
            restore.enter_context(traced_sizes(model, recording.sizes))
        if device == "meta":
            restore.enter_context(values_on_meta())
            # Token ids and masks keep their values: code may look at them.
            example_inputs = map_tensors(lambda t: t.to("meta") if t.is_floating_point() else t.clone(), example_inputs)
        else:
            example_inputs = copied(example_inputs)
        recording.inputs = tensors_in(example_inputs)
        before = snapshot(model) if replace is None else {}
        _run(model, example_inputs, recording, stack, training=False)
        if replace is None:
            recording.written = written_state(model, before, recording)
        if replace is None and device == "meta" and _untouched(recording):
            clear_state(model, states)
            _run_training(model, example_inputs, recording, stack)
    return recording


def _refuse_changed(recording: Recording) -> None:
    """See that a module's ``reset()`` does not draw weights anew."""
    if recording.device == "meta" and any(twin._version for twin in recording.parameters.values()):
        raise ModelError("reset() changes parameters")


def _enter_common(restore: ExitStack, model: nn.Module) -> None:
    """What every pass over a user's model needs to leave it, and the world, as they were."""
    restore.enter_context(exclusive())
    restore.enter_context(kept_random_state())
    restore.enter_context(paused_collector())
    restore.enter_context(canonical_calls())
    restore.enter_context(kept_attributes(model))
    restore.enter_context(kept_values(model, buffers=False))
    restore.enter_context(own_instances(model))


def _run(model: nn.Module, inputs: Any, recording: Recording, stack: list[str], *, training: bool) -> None:
    def note(call: LayerCall, layer_inputs: list[Tensor], layer_outputs: list[Tensor]) -> None:
        recording.ops.append(Op(call, tuple(layer_inputs), {}, tuple(layer_outputs), stack[-1], training))

    recorder = Recorder(recording, stack, training)
    try:
        with opaque_layers(model, note), recorder.reading():
            output = _forward(model, inputs, recorder, training=training)
    finally:
        recorder.close()
    recording.outputs += tensors_in(output)


def _forward(model: nn.Module, inputs: Any, mode: TorchDispatchMode, *, training: bool) -> Any:
    """One forward pass under a dispatch mode, without gradients."""
    set_mode(model, training)
    args, kwargs = arguments(inputs)
    with torch.no_grad(), mode:
        return model(*args, **kwargs)


def _run_training(model: nn.Module, inputs: Any, recording: Recording, stack: list[str]) -> None:
    """Record what only training reads (auxiliary heads). A batch of one is doubled where batch norm refuses it."""
    before = len(recording.ops), len(recording.outputs)
    failure = ""
    for batch in (inputs, map_tensors(lambda t: torch.cat([t, t]) if t.ndim else t, inputs)):
        try:
            _run(model, batch, recording, stack, training=True)
            recording.inputs += [
                t for t in tensors_in(batch) if all(t is not recorded for recorded in recording.inputs)
            ]
            return
        except Exception as error:  # noqa: BLE001 -- foreign code
            failure = str(error).split("\n")[0]
            del recording.ops[before[0] :], recording.outputs[before[1] :]
    text = f"the model does not run in train mode on the example inputs ({failure})"
    recording.notes.append(Note(text, "train mode"))


def _untouched(recording: Recording) -> bool:
    read = {id(t) for op in recording.ops for t in op.tensors}
    return any(id(t) not in read for t in recording.parameters.values() if t.is_floating_point() and t.ndim)
