"""The section that shows predictions beside the truth."""

from __future__ import annotations

import base64
import binascii

from reconvene.errors import ArtifactError
from reconvene.pages.data import ReportData
from reconvene.pages.markup import Html, tag
from reconvene.pages.sections import html_table, section


def pictures(data: ReportData) -> Html | None:
    """A row for each image: the image, the truth and what each network makes of it."""
    if not data.pictures:
        return None
    headings = list(dict.fromkeys(heading for row in data.pictures for heading in row))
    rows = [
        tag("tr", [tag("td", _picture(row, heading, i)) for heading in headings]) for i, row in enumerate(data.pictures)
    ]
    shares = [100 // len(headings)] * len(headings)
    lead = f"{len(data.pictures)} of the test images, spread over the split; every object or class has a colour."
    return section("Predictions", lead, html_table([heading.capitalize() for heading in headings], rows, shares=shares))


def _picture(row: dict[str, str], heading: str, number: int) -> Html | None:
    if heading not in row:
        return None
    try:
        base64.b64decode(row[heading], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ArtifactError(
            f"the picture {heading!r} of image {number} is not base64: {error}. Evaluate again"
        ) from error
    return tag("img", src=f"data:image/png;base64,{row[heading]}", alt=f"{heading} of image {number + 1}", width="100%")
