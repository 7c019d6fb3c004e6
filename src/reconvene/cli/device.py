"""``reconvene device profile`` and ``reconvene device list``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

from reconvene.cli.command import Answer, Command, ModelOptions, Seeded, UsageError, refuse_without, require_at_least
from reconvene.errors import DeviceError
from reconvene.utils.files import unwritable
from reconvene.utils.progress import stage

if TYPE_CHECKING:
    from reconvene.devices.on_device.layer_spec import LayerJob
    from reconvene.devices.on_device.sessions import NetworkSpec


@dataclass(kw_only=True)
class DeviceCommand(ModelOptions, Seeded, Command):
    """Measure what layers cost on this device (profile), or list the devices that were measured (list)."""

    command_lines: ClassVar[tuple[str, ...]] = (
        "reconvene device profile torchvision:resnet18 --name pi4",
        "reconvene device list",
    )
    heading: ClassVar[str] = "what is measured"

    what: Positional[Literal["profile", "list"]]
    """profile: measure; list: show the profiles that are kept."""
    model: Positional[Annotated[str | None, arg(metavar="MODEL")]] = None
    """Measure the layers of this model. By default a grid of common layers."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE")] = None
    """Where to write the profile: pi4.json."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """Keep the profile under this name, for --device NAME."""
    bundle: Annotated[Path | None, arg(metavar="FILE.pyz")] = None
    """Measure nothing now: write one file that measures another device, with python FILE.pyz -o pi4.json."""
    threads: int = 1
    """Threads of the runtime."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Arithmetic of the runtime."""

    def run(self) -> Answer:
        """Measure, write, or list."""
        require_at_least(self, ("threads",))
        if self.what == "list":
            if self != DeviceCommand(what="list", seed=self.seed, json=self.json, debug=self.debug):
                raise UsageError("list shows all profiles: it takes no model and none of the options of profile")
            return _list()
        if (self.output is not None) + (self.name is not None) + (self.bundle is not None) != 1:
            raise UsageError("where to? Give one of -o FILE, --name NAME, --bundle FILE.pyz")
        if self.name is not None and (
            not self.name or Path(self.name).name != self.name or self.name.endswith(".json")
        ):
            raise UsageError(f"--name {self.name!r} is not a plain name such as pi4")
        if self.name == "here":
            raise UsageError("--name here would hide this machine, which is called so. Take another name")
        from reconvene.devices.store import named_folder

        saved_to = named_folder() / f"{self.name}.json" if self.name else None
        for path in (self.output, self.bundle, saved_to):  # said now, not after minutes of measuring
            if path is not None and (why := unwritable(path)):
                raise DeviceError(f"{path} cannot be written: {why}")
        from reconvene import devices

        with stage("exporting the model at even widths" if self.model else "listing layers"):
            jobs, far_bytes, networks = self._jobs()
        options: dict[str, Any] = {"threads": self.threads, "precision": self.precision, "far": far_bytes}
        if self.bundle is not None:
            bundle_path = devices.write_probe_bundle(self.bundle, jobs, networks=networks, **options)
            then = f"copy it to the device, then: python {bundle_path.name} -o {bundle_path.stem}.json"
            contents = f"{len(jobs)} layers" + (f" and {len(networks)} whole networks" if networks else "")
            data = {"bundle": str(bundle_path), "layers": len(jobs), "networks": len(networks)}
            return Answer(f"{bundle_path}: {contents}. {then}", data)
        profile_path = self.output or named_folder() / f"{self.name}.json"
        with stage(f"measuring {len(jobs)} layers"):
            profile = devices.measure_device(jobs, networks=networks, name=self.name or profile_path.stem, **options)
        devices.save_profile(profile, profile_path)
        return Answer(f"{profile}\nprofile: {profile_path}", {"profile": str(profile_path), **profile.to_dict()})

    def _jobs(self) -> tuple[list[LayerJob], int, list[NetworkSpec]]:
        """Layers, bytes of weights, and whole networks."""
        from reconvene import devices
        from reconvene.models import example_inputs
        from reconvene.planning.measuring.networks import networks_to_time
        from reconvene.planning.target import parameter_bytes
        from reconvene.structure import analyse

        if self.model is None:
            refuse_without(self, ("model_arg", "input", "allow_import"), "MODEL")
            return devices.general(), 64 << 20, []
        source = self.source(self.model, seed=self.seed)
        assert source.input_shape is not None, "resolve_address() fills it in"
        model = source.build(allow_import=self.allow_import)
        inputs = example_inputs(source.input_shape, seed=self.seed)
        structure = analyse(model, inputs, trial=False)
        networks = networks_to_time(model, inputs, structure, precision=self.precision)
        return devices.jobs(devices.sites(structure)), parameter_bytes(model), networks


def _list() -> Answer:
    from reconvene import devices
    from reconvene.devices.store import cache_folder, named_folder
    from reconvene.utils.numbers import NARROW, memory
    from reconvene.utils.tables import Cell, text_table

    rows: list[list[Cell]] = []
    profiles, wrong = devices.profiles()
    for path, profile in profiles:
        threads = int(profile.runtime["threads"])
        runtime = f"{profile.runtime['name']} {profile.runtime['version']}"
        cells: list[Cell] = [
            profile.name or path.stem,
            str(profile.device["processor"]),
            runtime,
            threads,
            profile.precision,
        ]
        weights = memory(profile.far_bytes).replace(NARROW, " ")
        rows.append([*cells, weights, len(profile.layers), f"{profile.noise:.1%}", profile.date, path.name])
    header = ("device", "processor", "runtime", "threads", "precision", "weights", "layers", "noise", "date", "file")
    foot = [
        "weights: of models up to about so large",
        f"kept in {named_folder()} and, of this machine, {cache_folder()}",
    ]
    text = (
        text_table(header, rows, right=(5, 7), foot=foot)
        if rows
        else "no device was measured yet: reconvene device profile --name NAME"
    )
    text = "\n".join([text, *wrong])
    keys = ("name", "device", "runtime", "precision", "noise", "date")
    data = [{"file": str(path), **{key: getattr(profile, key) for key in keys}} for path, profile in profiles]
    return Answer(text, {"devices": data, "unreadable": wrong})
