"""The words of Reconvene: what ``reconvene --words`` prints, and what ``docs/glossary.md`` holds."""

from __future__ import annotations

import textwrap

_WORDS = {
    "agreement": "share of predictions that two networks, or a network and its exported file, have in common",
    "artifact": "a folder with plan.json, model.safetensors and reconvene.json, which says how to build the model "
    "again; never a pickle",
    "balanced with": "why a group has its width: an equation ties it to the groups named, which need more",
    "budget": "limits that the result must keep: parameters, multiply-accumulates, latency, file size, peak memory; "
    "any subset, all kept together",
    "calibration (int8)": "reading the ranges of activations from real data, so that eight bits can hold them",
    "calibration (scores)": "whether a network that says 90 % is right nine times of ten; the error is the mean gap",
    "criterion": "what scores weights or channels by how much the network needs them: synflow, snip, taylor, ...",
    "dead channels removed": "why a group of a simplified network has its width: channels left that are constant or "
    "that nothing reads",
    "dense": "the network before channels are removed",
    "device profile": "what layers cost in time on one device and runtime, measured there and kept as a file",
    "evaluator": "what judges how much a group can lose: fan_in from shapes alone, others from a criterion's scores",
    "floor": "the least cost that a network can be cut to",
    "group": "channels that can only leave together: the same index is removed from every weight that they touch",
    "kept at full width": "a group that loses no channel, with the reason: the budget has room, every cut loses too "
    "much, or no channel can leave (an output, an operator without a rule, a layer that --keep names)",
    "latency": "time of one inference of one batch in a runtime",
    "limited by the budget": "why a group has its width: it is the narrowest whose loss stays within the limit "
    "that the budget sets for all groups; with criteria whose losses add up, the one of the least total loss",
    "loss of a group": "what the network is estimated to lose when the group is cut to its width, in the unit of the "
    "evaluator; no training loss",
    "MACs": "multiply-accumulates of one example in a forward pass",
    "method": "one way to make a network smaller in a comparison: ours, a baseline, or none (an arm in files of "
    "experiments)",
    "narrowed for groups that lose more": "why a group has its width: it gave channels away, so that groups that would "
    "lose more keep theirs",
    "Pareto front": "the results of which no other one is better in both cost and quality",
    "peak memory": "most bytes of activations alive at once, for a batch of one",
    "plan": "which channels of which groups stay, as JSON; made without touching the model",
    "pruned": "the network after channels were removed: the same classes, smaller tensors",
    "quartiles": "the values below which a quarter and three quarters of the measured times lie",
    "rectify": "repair the layers that a cut touched: a new initialization for untrained networks, fitted weights or "
    "renewed norm statistics for trained ones",
    "seed": "the number that all random choices come from; the same seed gives the same bytes",
    "sensitivity": "what the network loses when a group is cut to a given width",
    "speed-up": "time of the dense network over the time of this one, from the same rounds; below 1 it is a slow-down",
    "spread": "standard deviation of a layer's activations, small network over dense; near 1 signals pass as before",
    "SQNR": "signal to quantisation noise of the outputs, in decibels; 20 dB is noise of a tenth of the signal",
    "surgery": "applying a plan to a model: a new module with the kept slices as weights",
    "thread time": "processor time of the one thread that computes; waiting for other programs adds nothing to it",
    "why": "the last column of a printed plan: the reason for the width of each group. This list explains its phrases",
    "widened to fill the budget": "why a group has its width: it got channels back, because the budget had room left "
    "(also: grown in steps of 4 to fill the budget)",
    "width and bits by one price": "why a group of a plan with bits has its width: every unit of the budget has "
    "the same price, and the channels and bits with the least sum of estimated loss and price were taken",
}
"""Each word and its meaning, in alphabetical order."""


def words_text(width: int = 100) -> str:
    """All words for a terminal."""
    indent = 22
    lines = []
    for word, meaning in _WORDS.items():
        first, *others = textwrap.wrap(meaning, width - indent)
        lines += [f"{word:<{indent - 1}} {first}", *(" " * indent + line for line in others)]
    return "\n".join(lines)


def words_page() -> str:
    """All words as the page of the documentation."""
    rows = [f"| {word} | {meaning} |" for word, meaning in _WORDS.items()]
    return "\n".join(
        ["# Words", "", "`reconvene --words` prints this page.", "", "| word | meaning |", "| --- | --- |", *rows, ""]
    )
