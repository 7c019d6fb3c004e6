"""Classify images with the model of this bundle. It needs Python 3.9, numpy and the model's runtime.

    python run.py classify IMAGE...   what each image shows
    python run.py test                do the answers here equal those of the machine that made the bundle?
    python run.py time                how long one image takes here

Before anything else every file is compared with its checksum; a bundle that was altered or damaged is refused.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .files import Files, Refused
from .images import Array, decode_image, normalise, read_npy, scale_to_cover

_RUNTIMES = "on_device/runtimes/"
"""Folder of the bundle with a program for each runtime that its models need."""
_ROUNDS, _TOP = 100, 3


def main(folder: Path, arguments: list[str] | None = None) -> int:
    """Run one command line on the bundle in a folder; 0 done, 1 refused or a test that failed, 2 usage."""
    options = command_line(arguments)
    try:
        bundle = Bundle(folder)
        answer, text = _COMMANDS[options.command](bundle, options)
    except (Refused, OSError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2) if options.json else text)
    return 0 if answer.get("passed", True) else 1


def command_line(arguments: list[str] | None) -> argparse.Namespace:
    """The command and its options, in any order. An option that the command would ignore is an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=tuple(_COMMANDS))
    parser.add_argument("images", nargs="*", type=Path, help="for classify: PNG, PPM, PGM, NPY; more with Pillow")
    parser.add_argument("--model", help="which model file of the bundle; by default the first, for test all of them")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute (default 1)")
    parser.add_argument("--rounds", type=int, help=f"for time: how often (default {_ROUNDS})")
    parser.add_argument("--top", type=int, help=f"for classify: how many labels (default {_TOP})")
    parser.add_argument("--json", action="store_true", help="answer as JSON")
    # parse_args takes the images for complete, with none of them, where an option stands between the command and them
    options = parser.parse_intermixed_args(arguments)
    if options.command == "classify" and not options.images:
        parser.error("classify needs at least one image")
    ignored = {
        "images": bool(options.images) and options.command != "classify",
        "--top": options.top is not None and options.command != "classify",
        "--rounds": options.rounds is not None and options.command != "time",
    }
    if unused := [name for name, is_ignored in ignored.items() if is_ignored]:
        parser.error(f"{options.command} takes no {', no '.join(unused)}: leave out what it would ignore")
    options.rounds = _ROUNDS if options.rounds is None else options.rounds
    options.top = _TOP if options.top is None else options.top
    if min(options.threads, options.rounds, options.top) < 1:
        parser.error("--threads, --rounds and --top are 1 at least")
    return options


class Bundle(Files):
    """The files of a bundle, and what they are to each other."""

    def array(self, name: str) -> Array:
        """A stored array."""
        return read_npy(self.read(name), name)

    def images(self) -> Array:
        """The stored images, uint8 ``[N, C, h, w]``."""
        name, shape = self.about["test"]["images"], self.about["input"]["shape"]
        images = self.array(name)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) < 1 or list(images.shape[1:]) != shape:
            raise Refused(f"{name} holds {images.dtype} {images.shape}, no images of {shape}")
        return images

    def model(self, name: str | None) -> dict[str, Any]:
        """The facts about one of the models: the first, or the one in this file."""
        models = {str(model["file"]): model for model in self.about["models"]}
        chosen = next(iter(models)) if name is None else name
        if chosen not in models:
            raise Refused(f"no model {chosen!r} in this bundle. There are: {', '.join(models)}")
        for file in models[chosen]["files"]:
            self.path(file)
        return dict(models[chosen])

    def prepare(self, pixels: Array) -> Array:
        """From uint8 ``[H, W, 1 or 3]`` of any size to float32 ``[1, C, h, w]``, as in training."""
        return normalise(scale_to_cover(pixels, self.about["input"]["shape"])[None], self.about["input"])


# ---- the three commands ----


def classify(bundle: Bundle, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The most likely labels of every image, with the softmax of their scores."""
    infer = open_model(bundle, options)
    labels, answer, lines = bundle.about["labels"], {}, []
    for path in options.images:
        pixels, decoder = decode_image(path)
        print(f"{path}: {pixels.shape[1]}x{pixels.shape[0]}, decoded {decoder}", file=sys.stderr)
        scores = infer(bundle.prepare(pixels))[0].astype(np.float64)
        if scores.shape != (len(labels),):
            raise Refused(f"the model gives scores of shape {scores.shape}, and there are {len(labels)} labels")
        share = np.exp(scores - scores.max())
        share /= share.sum()
        best = [int(i) for i in np.argsort(-share, kind="stable")[: options.top]]
        answer[str(path)] = [{"label": labels[i], "probability": round(float(share[i]), 6)} for i in best]
        lines.append(f"{path}  " + "  ".join(f"{labels[i]} {share[i]:.1%}" for i in best))
    return {"images": answer}, "\n".join(lines)


def test(bundle: Bundle, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Compare the answers to the stored images with the stored answers, of every model or the one asked for."""
    images = bundle.images()
    names = [options.model] if options.model else [model["file"] for model in bundle.about["models"]]
    answer: dict[str, Any] = {"passed": True, "images": len(images), "models": {}}
    lines = []
    for name in names:
        entry = bundle.model(name)
        infer = open_model(bundle, argparse.Namespace(model=name, threads=options.threads))
        expected = bundle.array(entry["expected"])
        outputs = np.concatenate([infer(normalise(image[None], bundle.about["input"])) for image in images])
        if outputs.shape != expected.shape:
            raise Refused(f"{name} gives outputs of shape {outputs.shape} here, {expected.shape} where it was made")
        error = float(np.abs(outputs - expected).max() / max(float(np.abs(expected).max()), 1e-30))
        same = int((outputs.argmax(1) == expected.argmax(1)).sum())
        passed = bool(error <= entry["tolerance"])  # NaN is not
        exact = bool(np.array_equal(outputs, expected))
        result = {"passed": passed, "relative_error": error, "bit_exact": exact, "same_label": same}
        answer["models"][name] = result
        answer["passed"] = answer["passed"] and passed
        verdict = "passed" if passed else "FAILED"
        detail = "bit for bit" if exact else f"relative error {error:.1e}, tolerance {entry['tolerance']:.0e}"
        lines.append(f"{verdict}  {name}: {same} of {len(images)} labels the same, {detail}")
    return answer, "\n".join(lines)


def time_inference(bundle: Bundle, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Milliseconds for one image: by the wall clock, and with one thread by the processor time of the process."""
    infer = open_model(bundle, options)
    image = bundle.images()[:1]
    prepared = normalise(image, bundle.about["input"])
    for _ in range(5):
        infer(prepared)
    clocks = np.empty((options.rounds, 2))
    for i in range(options.rounds):
        wall, busy = time.perf_counter(), time.process_time()  # runtimes may compute in a thread of their own
        infer(prepared)
        clocks[i] = time.perf_counter() - wall, time.process_time() - busy
    preparing = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        normalise(image, bundle.about["input"])
        preparing.append(time.perf_counter() - start)
    answer = {
        "model": bundle.model(options.model)["file"],
        "threads": options.threads,
        "rounds": options.rounds,
        "wall_ms_median": round(float(np.median(clocks[:, 0])) * 1e3, 4),
        "wall_ms_min": round(float(clocks[:, 0].min()) * 1e3, 4),
        "processor_ms_median": round(float(np.median(clocks[:, 1])) * 1e3, 4) if options.threads == 1 else None,
        "normalise_ms": round(float(np.median(preparing)) * 1e3, 4),
    }
    used = f", {answer['processor_ms_median']} ms of processor time" if options.threads == 1 else ""
    text = f"{answer['model']}: {answer['wall_ms_median']} ms (fastest {answer['wall_ms_min']} ms){used}"
    return answer, f"{text}, batch 1, {options.threads} thread(s), {options.rounds} rounds, on {platform.machine()}"


_COMMANDS: dict[str, Callable[[Bundle, argparse.Namespace], tuple[dict[str, Any], str]]] = {
    "classify": classify,
    "test": test,
    "time": time_inference,
}


# ---- the model ----


def open_model(bundle: Bundle, options: argparse.Namespace) -> Callable[[Array], Array]:
    """The model as a function from float32 ``[1, C, h, w]`` to its scores ``[1, classes]``."""
    entry = bundle.model(options.model)
    name = entry["runtime"]
    programs = [
        file[len(_RUNTIMES) : -3] for file in bundle.sums if file.startswith(_RUNTIMES) and file.endswith(".py")
    ]
    runnable = [program for program in programs if program.isidentifier() and program != "__init__"]
    if name not in runnable:
        raise Refused(f"{entry['file']} runs in {name!r}, and this bundle has programs for: {', '.join(runnable)}")
    program = importlib.import_module(f".runtimes.{name}", __package__)
    infer: Callable[[Array], Array] = program.load(bundle.path(entry["file"]), options.threads)
    return infer
