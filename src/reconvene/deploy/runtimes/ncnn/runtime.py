"""The ``ncnn`` runtime: ``.ncnn.param`` beside ``.ncnn.bin`` by pnnx, for small ARM boards."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconvene.deploy.batch_of_one import SingleSession
from reconvene.deploy.functional import functional_form, writes_into_views
from reconvene.deploy.model_io import in_inference, is_batched, leaves, outputs_of
from reconvene.deploy.options import FileOptions
from reconvene.deploy.quantisation import Quantisation
from reconvene.deploy.runtimes.base import Runtime, Session, Written, file_of, imported
from reconvene.deploy.runtimes.ncnn.int8 import quantised_ncnn
from reconvene.deploy.tracing import TensorsOnly, exporting, one_sample, said
from reconvene.errors import ExportError, ModelError

_EXTRA = "ncnn"
SUFFIX = ".ncnn.param"
# Halves of everything, which ncnn uses by itself: good on a board, no float32.
HALVES = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")


def export_ncnn(model: nn.Module, example_inputs: Any, path: Path, options: FileOptions) -> Written:
    """Write ``model`` in eval mode as an ncnn pair of files for a batch of one; in float16 its weights are halves.

    Raises ExportError: an operator that ncnn lacks (named), or an input that is not floating point.
    """
    sample = one_sample(example_inputs)
    tensors = leaves(sample)
    if odd := [str(tensor.dtype) for tensor in tensors if tensor.dtype != torch.float32]:
        raise ExportError(
            f"ncnn takes float32 inputs only, and {type(model).__name__} takes {', '.join(odd)}. For weights in "
            "float16 pass the model in float32 and precision='fp16'"
        )
    if any(tensor.ndim < 2 for tensor in tensors):
        raise ExportError(
            f"{type(model).__name__} takes an input of shape [batch], one number an example, and what ncnn takes has a "
            "dimension besides the batch. Let it take [batch, 1]"
        )
    with tempfile.TemporaryDirectory(prefix=".pnnx-", dir=path.parent) as folder:
        script = Path(folder) / "model.pt"
        with in_inference(model):
            outputs = outputs_of(model, sample)
        with exporting(model, "ncnn"), said(), in_inference(model):
            script_module = _traced(TensorsOnly(model, sample), tensors)
            if writes_into_views(script_module):
                script_module = _traced(functional_form(model, sample), tensors)
            script_module.save(str(script))
        _convert(model, script, [list(tensor.shape) for tensor in tensors], halves=options.half)
        converted = [script.with_name("model.ncnn.param"), script.with_name("model.ncnn.bin")]
        _check_operators(model, converted[0])
        _write_shapes(converted[0], [tuple(tensor.shape) for tensor in tensors])
        _mark_unbatched(converted[0], list(outputs.values()))
        for source, target in zip(converted, _pair(path), strict=True):
            shutil.copyfile(source, target)
    return Written(tuple(_pair(path)), batch=1)


def _traced(module: nn.Module, tensors: list[Tensor]) -> torch.jit.ScriptModule:
    script: torch.jit.ScriptModule = torch.jit.trace(module, tuple(tensors), check_trace=False)  # type: ignore[no-untyped-call]
    return script


def quantize_ncnn(
    model: nn.Module, example_inputs: Any, path: Path, quantisation: Quantisation, options: FileOptions
) -> Written:
    """The same with convolutions and linear layers in int8: symmetric, weights per channel. Raises ExportError."""
    written = export_ncnn(model, example_inputs, path, options)
    with open_ncnn(path, 1) as session:
        assert isinstance(session, NcnnSession)
        left = quantised_ncnn(model, session, _pair(path), quantisation)
    if not left:
        return written
    note = (
        f"in float32: {', '.join(left)}; ncnn's int8 kernel is wrong for grouped convolutions whose groups have a "
        "multiple of eight outputs"
    )
    return replace(written, notes=(note,), keep_fp32=left)


def _pair(path: Path) -> list[Path]:
    return [path, path.with_name(path.name.removesuffix(SUFFIX) + ".ncnn.bin")]


def _convert(model: nn.Module, script: Path, shapes: list[list[int]], *, halves: bool) -> None:
    """Run pnnx, a program of its own, on the TorchScript file; it leaves its results beside it."""
    program = imported("pnnx", _EXTRA, "ncnn export").EXEC_PATH
    input_shapes = ",".join(f"[{','.join(map(str, shape))}]f32" for shape in shapes)
    # pnnx writes where it runs, so it runs beside the script, and a relative path would be looked up from there.
    script = script.resolve()
    command = [str(Path(program).resolve()), str(script), f"inputshape={input_shapes}", f"fp16={int(halves)}"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=script.parent, check=False)
    if process.returncode or not script.with_name("model.ncnn.param").exists():
        lines = [line for line in (process.stdout + process.stderr).splitlines() if line.strip()]
        raise ExportError(
            f"{type(model).__name__} could not be exported to ncnn: pnnx stopped with code {process.returncode}: "
            + "; ".join(lines[-2:])
        )


def _check_operators(model: nn.Module, param: Path) -> None:
    """Raise ExportError for operators that ncnn lacks: pnnx leaves them in the file under torch's name, silently."""
    operators = {line.split()[0] for line in param.read_text(encoding="utf-8").splitlines()[2:]}
    if lacking := sorted(
        operator for operator in operators if re.match(r"(aten|torch|nn|F|Tensor|prim|pnnx)[.:]", operator)
    ):
        raise ExportError(
            f"{type(model).__name__} could not be exported to ncnn: it has no operator for {', '.join(lacking)}"
        )


_SIZES = {0: (), 1: ("0",), 2: ("1", "0"), 3: ("2", "1", "0"), 4: ("2", "11", "1", "0")}
"""Parameters of an Input layer that hold the sizes of a sample, by its dimensions."""


def _write_shapes(param: Path, shapes: list[tuple[int, ...]]) -> None:
    """Write the shapes of the inputs into the file: pnnx leaves them open."""
    lines = param.read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        fields = line.split()
        if fields[0] == "Input":
            _, *sizes = shapes[_number(fields[1])]
            lines[i] = " ".join(
                [*fields, *(f"{key}={size}" for key, size in zip(_SIZES[len(sizes)], sizes, strict=True))]
            )
    param.write_text("\n".join(lines) + "\n", encoding="utf-8")


_TABLE, _SCALAR = "_table", "_scalar"
"""Endings of the names of outputs without a batch: ncnn knows no batch, and every other output has one of one."""


def _mark_unbatched(param: Path, outputs: list[Tensor]) -> None:
    """Rename outputs that do not begin with the batch: ``out1_table``, or ``out1_scalar``."""
    names = {
        f"out{i}": f"out{i}{_TABLE if output.ndim else _SCALAR}"
        for i, output in enumerate(outputs)
        if not is_batched(output, 1)
    }
    if not names:
        return
    lines = [line.split(" ") for line in param.read_text(encoding="utf-8").splitlines()]
    renamed = [" ".join(names.get(field, field) for field in fields) for fields in lines]
    param.write_text("\n".join(renamed) + "\n", encoding="utf-8")


def _input_shapes(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the file's inputs, for a batch of one."""
    shapes: dict[int, tuple[int, ...]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if fields and fields[0] == "Input":
                sizes = dict(word.split("=") for word in fields[5:])
                shapes[_number(fields[1])] = (1, *(int(sizes[key]) for key in _SIZES[len(sizes)]))
    except (ValueError, KeyError, IndexError) as error:
        raise ModelError(f"ncnn cannot load {path.name}: it is damaged") from error
    return [shapes[i] for i in sorted(shapes)]


class NcnnSession(SingleSession):
    """A pair of files loaded by ncnn, computing in float32 wherever the file does."""

    def __init__(self, path: Path, threads: int) -> None:
        ncnn = imported("ncnn", _EXTRA, "running an ncnn file")
        self.ncnn, self.net = ncnn, ncnn.Net()
        self.net.opt.num_threads = threads
        for option in HALVES:
            setattr(self.net.opt, option, False)
        shapes = _input_shapes(path)
        with said() as text:
            if self.net.load_param(str(path)) or self.net.load_model(str(_pair(path)[1])):
                raise ModelError(f"ncnn cannot load {path.name}: {text().strip() or 'it is damaged'}")
        self.inputs = sorted(self.net.input_names(), key=_number)
        self.outputs = sorted(self.net.output_names(), key=_number)
        super().__init__("ncnn", shapes)

    def prepare(self, tensors: list[Tensor]) -> list[Any]:
        """See SingleSession. A Mat of our own memory would be read after it is gone: hence the clone."""
        return [self.ncnn.Mat(tensor[0].numpy()).clone() for tensor in tensors]

    def once(self, prepared: list[Any]) -> list[Tensor]:
        """See SingleSession."""
        values = [torch.from_numpy(np.array(value)) for value in self.extract(prepared, self.outputs)]
        return [_as_returned(name, value) for name, value in zip(self.outputs, values, strict=True)]

    def extract(self, prepared: list[Any], blobs: list[str]) -> list[Any]:
        """The values of these blobs for one sample. Raises ModelError."""
        with self.net.create_extractor() as extractor:
            extractor.set_light_mode(blobs == self.outputs)  # anything else forgets blobs in between
            for name, value in zip(self.inputs, prepared, strict=True):
                extractor.input(name, value)
            values = []
            for name in blobs:
                failed, value = extractor.extract(name)
                if failed:
                    raise ModelError(f"ncnn could not compute {name}: error {failed}")
                values.append(value)
            return values


def _as_returned(name: str, value: Tensor) -> Tensor:
    """An output in the shape that the model gives it."""
    if name.endswith(_SCALAR):
        return value.reshape(())
    return value if name.endswith(_TABLE) else value[None]


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name) or 0)


@contextmanager
def open_ncnn(model: nn.Module | Path, threads: int) -> Iterator[Session]:
    """Load a pair of files with so many threads, on the calling thread where it is one."""
    yield NcnnSession(file_of(model, "ncnn"), threads)


NCNN = Runtime(
    "ncnn",
    "ncnn",
    SUFFIX,
    export_ncnn,
    quantize_ncnn,
    open_ncnn,
    extra=_EXTRA,
    to_run={"ncnn": "1.0.20261020"},
    to_export={"pnnx": "20261020"},
    takes=frozenset({"fp16"}),
)
