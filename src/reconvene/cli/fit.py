"""``reconvene fit DEVICE``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from reconvene.cli.command import Answer, Command, CriterionOptions, DataOptions, Importing, Shape, UsageError


@dataclass(kw_only=True)
class Fit(DataOptions, CriterionOptions, Importing, Command):
    """Rank architectures by what they are predicted to lose when each is cut to a device's budget."""

    device: Positional[Annotated[str, arg(metavar="DEVICE")]]
    """Profile of the device: a file, or a name; here: this machine, measured as needed."""
    models: Annotated[str, arg(metavar="MODEL[,MODEL]")]
    """Architectures, separated by commas."""
    input: Shape = None
    """Shape of one example. By default each model's own."""
    params: Annotated[str | None, arg(metavar="LIMIT")] = None
    """Parameters: 1M."""
    macs: Annotated[str | None, arg(metavar="LIMIT")] = None
    """Multiply-accumulates of one example: 250MMACs."""
    size: Annotated[str | None, arg(metavar="LIMIT")] = None
    """Bytes of the weights file: 1MB."""
    peak_memory: Annotated[str | None, arg(metavar="LIMIT")] = None
    """Bytes of activations alive at once: 256KiB."""
    latency: Annotated[str | None, arg(metavar="LIMIT")] = None
    """Seconds of one inference: 5ms. Without it the latency on the device is predicted and shown."""

    def run(self) -> Answer:
        """Cut each to the budget, without saving anything."""
        names = list(dict.fromkeys(name.strip() for name in self.models.split(",") if name.strip()))
        asked = {
            name: getattr(self, name)
            for name in ("params", "macs", "size", "peak_memory", "latency")
            if getattr(self, name) is not None
        }
        if not names or not asked:
            raise UsageError(
                "give --models and a budget: at least one of --params, --macs, --size, --peak-memory, --latency"
            )
        from reconvene.allocation import Budget
        from reconvene.cli.progress import say
        from reconvene.devices import HERE, find
        from reconvene.fleet import rank
        from reconvene.models import resolve
        from reconvene.pipeline.prune import Samples

        if self.device != HERE:
            find(self.device)  # said before any model is built
        sources = [
            resolve(name, {}, input_shape=self.input, seed=self.seed, allow_import=self.allow_import) for name in names
        ]
        found = rank(
            sources,
            Budget(**asked),
            device=self.device,
            criterion=self.criterion,
            evaluator=self.evaluator,
            data=lambda source: Samples(lambda: self.dataset(source.input_shape), seed=self.seed),
            examples=self.examples(),
            seed=self.seed,
            allow_import=self.allow_import,
            say=say,
        )
        return Answer(str(found), found.to_dict())
