"""The section on spiking networks: synaptic operations, by layer and in all, and how often neurons spike."""

from __future__ import annotations

from reconvene.costs.synops import ENERGY_TABLE, Synops
from reconvene.pages.data import ReportData
from reconvene.pages.markup import Html, tag
from reconvene.pages.sections import details, html_table, section
from reconvene.utils import numbers


def synops(data: ReportData) -> Html | None:
    """Every variant side by side; its layers in a table to open."""
    if not data.synops:
        return None
    counts = list(data.synops.values())
    rows = [
        _row("Additions (AC) of an example", [numbers.format_count(count.ac) for count in counts]),
        _row("Multiply-accumulates (MAC)", [numbers.format_count(count.mac) for count in counts]),
        _row("Energy of the arithmetic", [f"{count.joules * 1e6:.3g} µJ" for count in counts]),
        _row("Membrane updates", [numbers.format_count(count.membrane_updates) for count in counts]),
        _row("Spikes a neuron and step", [numbers.share(count.spike_rate) for count in counts]),
    ]
    lead = (
        f"An input that is not zero meets a weight that is not zero; means over {counts[0].examples} test images. "
        f"Energy: {ENERGY_TABLE}; memory is not in it."
    )
    columns = ["", *(name.capitalize() for name in data.synops)]
    table = html_table(columns, rows, numeric=range(1, len(columns)))
    layers = details("Every layer in numbers", *(_layers(name, count) for name, count in data.synops.items()))
    return section("Synaptic operations", lead, table, layers)


def _layers(variant: str, count: Synops) -> Html:
    rows = [
        _row(layer.layer, [f"{layer.ac:,.0f}", f"{layer.mac:,.0f}", numbers.share(layer.rate)])
        for layer in count.layers
    ]
    header = [f"{variant.capitalize()}: layer", "AC", "MAC", "Active inputs"]
    return html_table(header, rows, numeric=range(1, 4), long=len(rows) > 20)


def _row(label: str, cells: list[str]) -> Html:
    return tag("tr", tag("th", label, scope="row"), [tag("td", cell, class_="number") for cell in cells])
