"""Notes of a plan: sentences for people, each with the subject that programs ask for."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import GetPydanticSchema
from pydantic_core import core_schema

from reconvene.utils.schema import LONGEST

NoteSubject: TypeAlias = Literal[
    "branch",
    "train mode",
    "pinned",
    "operator",
    "meta",
    "choice",
    "round_to",
    "budget",
    "cost",
    "weights",
    "kept weights",
    "norms",
    "",
]
"""What notes are about; of notes in plans of earlier releases it is empty."""


class Note(str):
    """A sentence, and what it is about; as text it is the sentence.

    ====================  =====================================================================
    ``branch``            the forward pass read values: other inputs may take another branch
    ``train mode``        the network does not run in train mode
    ``pinned``            what stays whole since a trial of smaller sizes failed
    ``operator``          what stays whole since an operator has no rule
    ``meta``              a network without values: nothing was compared
    ``choice``            calls whose result rounding decides
    ``round_to``          widths that are no multiples of ``round_to``
    ``budget``            a measured budget that is hardly used
    ``cost``              how a cost was measured
    ``kept weights``      trained weights were kept
    ``weights``           trained weights are drawn anew
    ``norms``             statistics of norms that were taken again
    ====================  =====================================================================

    >>> note = Note("multiples of 8 left some of the budget unused", "round_to")
    >>> note.about, "multiples" in note
    ('round_to', True)
    """

    about: NoteSubject

    def __new__(cls, text: str, about: NoteSubject = "") -> Self:
        """A note that reads as ``text``."""
        note = super().__new__(cls, text)
        note.about = about
        return note

    def to_dict(self) -> dict[str, str]:
        """Plain JSON values."""
        return {"about": self.about, "text": str(self)}


def _from_file(value: Any) -> Note:
    return Note(value["text"], value["about"]) if isinstance(value, dict) else Note(value)


_TEXT = core_schema.str_schema(max_length=LONGEST)
_OBJECT = core_schema.typed_dict_schema(
    {
        "about": core_schema.typed_dict_field(core_schema.str_schema(max_length=100)),  # later releases know others
        "text": core_schema.typed_dict_field(_TEXT),
    },
    extra_behavior="forbid",
)
StoredNote = Annotated[
    Note,
    GetPydanticSchema(
        lambda *_: core_schema.no_info_after_validator_function(_from_file, core_schema.union_schema([_TEXT, _OBJECT]))
    ),
]
"""A note in a file: an object, or, in plans of earlier releases, its text alone."""
