"""The section on bits: how many the channels of every layer have, and which."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from reconvene.pages.data import ReportData
from reconvene.pages.markup import Html, name, tag
from reconvene.pages.sections import details, html_table, section
from reconvene.surgery.bits import LayerBits


def bits_section(data: ReportData) -> Html | None:
    """Bits by layer and channel; nothing where no bits were decided."""
    if data.bits is None or not data.bits.layers:
        return None
    usual, fewer, layers = data.bits.activations, data.bits.inputs, data.bits.layers
    widths = sorted({width for layer in layers.values() for width, _ in layer.counts})
    totals = {width: sum(dict(layer.counts).get(width, 0) for layer in layers.values()) for width in widths}
    shown = ", ".join(f"{totals[width]:,} of {width} bits" for width in widths)
    lead = (
        f"Every output channel of {len(layers)} layers has weights of its own number of bits: {shown}. A strip is a "
        f"layer, its channels from left to right in their order. "
        + (
            "Reads says how many bits the activations have that a layer reads."
            if fewer
            else f"Activations have {usual} bits."
        )
    )
    legend = tag(
        "ul",
        [tag("li", tag("span", class_=f"swatch bits{width}"), f"{width} bits") for width in widths],
        class_="legend",
    )
    rows = [
        tag(
            "tr",
            tag("th", name(weight.removesuffix(".weight")), scope="row"),
            [tag("td", f"{fewer.get(weight.rpartition('.')[0], usual)} bits")] if fewer else [],
            tag("td", _strip(weight, layer), tag("span", _mean(layer), class_="figure"), class_="bars"),
        )
        for weight, layer in layers.items()
    ]
    counts = [
        tag(
            "tr",
            tag("th", name(weight), scope="row"),
            [tag("td", f"{dict(layer.counts).get(width, 0):,}", class_="number") for width in widths],
        )
        for weight, layer in layers.items()
    ]
    table = html_table(
        ["Weight", *(f"{width} bits" for width in widths)],
        counts,
        numeric=range(1, len(widths) + 1),
        long=len(rows) > 24,
    )
    return section(
        "Bits, by layer and channel",
        lead,
        legend,
        html_table(
            ["Layer", *(["Reads"] if fewer else []), "Bits of its channels"],
            rows,
            shares=(34, 10, 56) if fewer else (38, 62),
            long=len(rows) > 24,
        ),
        details("Channels by bits in numbers", table),
    )


def _mean(layer: LayerBits) -> str:
    return f"{float(np.mean(layer.bits)):.1f} on average"


def _strip(weight: str, layer: LayerBits) -> Html:
    """One rectangle for each run of channels of equal bits."""
    values = layer.bits.tolist()
    drawn, start = [], 0
    for width, run in groupby(values):
        count = len(list(run))
        channels = f"channel {start}" if count == 1 else f"channels {start} to {start + count - 1}"
        drawn.append(
            tag(
                "rect",
                tag("title", f"{channels}: {width} bits"),
                x=f"{100 * start / len(values):.3f}",
                width=f"{100 * count / len(values):.3f}",
                y="0",
                height="10",
                class_=f"bits{width}",
            )
        )
        start += count
    return tag(
        "svg",
        tag("title", f"Bits of the channels of {weight}"),
        drawn,
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        role="img",
        class_="strip",
    )
