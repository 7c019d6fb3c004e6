"""What a recipe came to: every stage's score, bytes and latency, in one table and one plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from reconvene import artifact
from reconvene.costs import COSTS
from reconvene.pages.charts import Scale, nice_ticks
from reconvene.tasks import task_named
from reconvene.utils.escaping import escape_html
from reconvene.utils.tables import Cell, text_table, times
from reconvene.workflow.compression.judge import StageResult


@dataclass(frozen=True)
class OnDevice:
    """Seconds of the last network on the device that the budget is about, by name or by the file of its profile."""

    device: str
    seconds: float


@dataclass(frozen=True)
class Compressed:
    """A recipe that was carried out.

    Attributes:
        folder: it has a folder for every stage, and ``stages.json`` and ``stages.svg``.
        stages: what each came to; the first is the source.
        latencies: seconds of one inference of each stage's ONNX file on one thread of this machine, timed in turns.
        limits: the budget of the whole, in absolute amounts; empty without one.
        task: what the data is for.
        on_device: where the budget on latency is about a device with a profile, what that predicts.
    """

    folder: Path
    stages: tuple[StageResult, ...]
    latencies: tuple[float, ...]
    limits: dict[str, float]
    task: str
    on_device: OnDevice | None = None

    @property
    def artifact(self) -> Path:
        """The folder of the last stage: its artifact, and its exported files."""
        return self.folder / stage_folder(self.stages[-1].number, self.stages[-1].stage)

    def model(self, *, allow_import: bool = False) -> nn.Module:
        """The network of the last stage, as ``rc.load`` gives it."""
        return artifact.load(self.artifact, allow_import=allow_import)

    @property
    def over(self) -> dict[str, tuple[float, float]]:
        """Costs of the last stage that break the budget, each with its limit."""
        costs = self._limited
        return {name: (costs[name], limit) for name, limit in self.limits.items() if costs[name] > limit}

    @property
    def _limited(self) -> dict[str, float]:
        """The costs of the last stage that limits are about."""
        latency = self.latencies[-1] if self.on_device is None else self.on_device.seconds
        return {**self.stages[-1].costs, "latency": latency}

    def __str__(self) -> str:
        task, first = task_named(self.task), self.stages[0]
        rows: list[list[Cell]] = []
        for result, seconds in zip(self.stages, self.latencies, strict=True):
            costs = {**result.costs, "latency": seconds}
            texts = [COSTS[name].unit.short(costs[name]) for name in ("size", "latency", "params", "macs")]
            rows.append([str(result.number), result.stage, result.precision, task.show(result.score), *texts])
        last = self.stages[-1]
        size = times(first.costs["size"] / last.costs["size"], "smaller", "larger")
        latency = times(self.latencies[0] / self.latencies[-1], "faster", "slower")
        foot = [
            "",
            f"beside stage 0: bytes {size}, latency {latency}, "
            f"{first.headline} {task.difference(last.score - first.score)}; files of ONNX Runtime, one thread",
            f"artifact: {self.artifact}",
        ]
        for name, limit in self.limits.items():
            value, unit = self._limited[name], COSTS[name].unit
            verdict = "over" if value > limit else "kept"
            elsewhere = self.on_device if name == "latency" else None
            where = "" if elsewhere is None else f" on {elsewhere.device}, by its profile"
            foot.insert(-1, f"{name} {unit.short(value)} of at most {unit.short(limit)}{where}: {verdict}")
        header = ["", "stage", "file", first.headline, "bytes", "latency", "parameters", "MACs"]
        return text_table(header, rows, right=range(3, 8), foot=foot)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        stages = [
            {**asdict(result), "latency": seconds} for result, seconds in zip(self.stages, self.latencies, strict=True)
        ]
        return {
            "folder": str(self.folder),
            "artifact": str(self.artifact),
            "stages": stages,
            "limits": self.limits,
            "on_device": None if self.on_device is None else asdict(self.on_device),
        }


def stage_folder(number: int, stage: str) -> str:
    """``03-prune``."""
    return f"{number:02d}-{stage}"


_WIDTH, _PANEL, _LEFT, _TOP, _COLOUR = 720, 150, 76, 34, "#1b6ca8"


def draw_stages(result: Compressed) -> str:
    """An SVG document: score, bytes and latency one under another, the stages from left to right."""
    task, costs = (
        task_named(result.task),
        [{**r.costs, "latency": s} for r, s in zip(result.stages, result.latencies, strict=True)],
    )
    panels: list[tuple[str, list[float], Callable[[float], str]]] = [
        (task.headline, [r.score for r in result.stages], task.show)
    ]
    panels += [(name, [float(c[name]) for c in costs], COSTS[name].unit.short) for name in ("size", "latency")]
    names = [f"{r.number} {r.stage}" for r in result.stages]
    parts = [
        part
        for position, (heading, values, show) in enumerate(panels)
        for part in _panel(heading, values, show, names, _TOP + position * (_PANEL + 34))
    ]
    bottom = _TOP + 3 * (_PANEL + 34)
    parts += [
        f'<text x="{_across(i, len(names)):.1f}" y="{bottom}" text-anchor="middle">{escape_html(n)}</text>'
        for i, n in enumerate(names)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 12}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#222">\n<title>Stages of a recipe</title>\n'
        f'<rect width="{_WIDTH}" height="{bottom + 12}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _across(position: int, count: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - 20) * (position + 0.5) / count


def _panel(heading: str, values: Sequence[float], show: Any, names: Sequence[str], top: float) -> list[str]:
    ticks = nice_ticks(min(values), max(values), about=3)
    up = Scale(ticks[0], ticks[-1])
    heights = [top + _PANEL * (1 - up(value) / 100) for value in values]
    parts = [f'<text x="{_LEFT}" y="{top - 10:.0f}" font-weight="bold">{escape_html(heading)}</text>']
    for tick in ticks:
        y = top + _PANEL * (1 - up(tick) / 100)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape_html(show(tick))}</text>')
    points = [(_across(i, len(values)), y) for i, y in enumerate(heights)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts.append(f'<path d="M{path}" fill="none" stroke="{_COLOUR}" stroke-opacity=".55"/>')
    for name, value, (x, y) in zip(names, values, points, strict=True):
        text = escape_html(f"{name}: {show(value)}")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_COLOUR}"><title>{text}</title></circle>')
    return parts
