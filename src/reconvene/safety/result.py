"""What was judged of a network or file, as tables and files have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from reconvene.safety.membership import Membership
from reconvene.utils.schema import Count, Name, Share, opened
from reconvene.utils.tables import Cell, text_table


@opened
@dataclass(frozen=True)
class Trigger:
    """A patch that was looked for on one network, tried on another or on a file.

    ``success``: share of test images that it turns into the class ``target``; ``flagged`` that this says somebody
    planted it; ``comparable`` that there are classes enough to say so or not;
    ``accurate`` that the network answers twice as many images right as the commonest class has.
    """

    target: Name
    row: Count
    column: Count
    side: Count
    success: Share
    flagged: bool
    comparable: bool = True
    accurate: bool = True

    @property
    def verdict(self) -> str:
        """``planted``, or why there is no verdict; empty for a patch that is none."""
        if not self.comparable:
            return "too few classes to judge"
        if not self.accurate:
            return "too few right answers to judge"
        return "planted" if self.flagged else ""


@opened
@dataclass(frozen=True)
class Safety:
    """One network or file; all numbers but counts are shares in [0, 1].

    Attributes:
        count: test images that were attacked.
        accuracy: on these.
        membership: what it tells of its training images.
        attacked: accuracy on images that were changed by the gradients of its own network, by attack.
        transferred: of the attacked images that fool the dense network, the share that fools this one, by attack;
            empty for the dense network.
        triggers: the best patch of each network, tried on this one, by the name of the network.
        gradients: whether its own network has any by which to attack; where it has none (a hard threshold without a
            surrogate), ``attacked`` says nothing.
    """

    count: Count
    accuracy: Share
    membership: Membership
    attacked: dict[Name, Share]
    transferred: dict[Name, Share] = field(default_factory=dict)
    triggers: dict[Name, Trigger] = field(default_factory=dict)
    gradients: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Safety:
        """Undo ``to_dict``."""
        triggers = {name: Trigger(**trigger) for name, trigger in values["triggers"].items()}
        return cls(**{**values, "membership": Membership(**values["membership"]), "triggers": triggers})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @property
    def flagged(self) -> bool:
        """Whether a trigger seems to be planted."""
        return any(trigger.flagged for trigger in self.triggers.values())

    def rows(self) -> dict[str, str]:
        """What a table says, by the heading of the line."""
        members = self.membership
        rows = {
            "membership, AUC": f"{members.auc:.3f}",
            "the same, membership shuffled": f"{members.shuffled_auc:.3f}",
            "members named at 1 % false alarms": f"{members.tpr:.1%}",
            "accuracy, not attacked": f"{self.accuracy:.1%}",
        }
        rows |= {f"accuracy under {name}": f"{value:.1%}" for name, value in self.attacked.items()}
        rows |= {f"{name} of dense that fool it too": f"{value:.1%}" for name, value in self.transferred.items()}
        for name, trigger in self.triggers.items():
            verdict = f", {trigger.verdict}" if trigger.verdict else ""
            rows[f"best patch of {name}"] = f"{trigger.success:.1%} {trigger.target}{verdict}"
        return rows


def safety_table(results: Mapping[str, Safety]) -> str:
    """A table with one column a network or file."""
    texts = [result.rows() for result in results.values()]
    headings = dict.fromkeys(heading for text in texts for heading in text)
    rows: list[list[Cell]] = [[heading, *(text.get(heading, "") for text in texts)] for heading in headings]
    return text_table(["safety", *results], rows, right=range(1, len(results) + 1), foot=safety_warnings(results))


def safety_warnings(results: Mapping[str, Safety]) -> list[str]:
    """A line for every network or file that has no gradients to attack by, or seems to hold a planted trigger."""
    lines = []
    for name, result in results.items():
        if not result.gradients:
            lines.append(
                f"warning: {name}: its loss has no gradient by the pixels (as behind a hard threshold without a "
                "surrogate), so attacks by gradients say nothing of it"
            )
        for trigger in result.triggers.values():
            if trigger.flagged:
                place = f"{trigger.side}x{trigger.side} pixels at row {trigger.row}, column {trigger.column}"
                lines.append(
                    f"warning: {name}: a patch of {place} turns {trigger.success:.0%} of the images into "
                    f"{trigger.target}: somebody may have planted it"
                )
    return list(dict.fromkeys(lines))
