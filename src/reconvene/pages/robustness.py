"""The sections on what the headline does not say: calibration, the worst class, corrupted images; safety."""

from __future__ import annotations

from reconvene.pages import headline
from reconvene.pages.data import ReportData
from reconvene.pages.markup import Child, Html, tag
from reconvene.pages.sections import html_table, section
from reconvene.safety import safety_warnings
from reconvene.tasks import Assessment, Task, task_named


def assessment(data: ReportData) -> Html | None:
    """Every trained variant side by side; a row for each thing that was looked at."""
    if not data.assessment:
        return None
    task = task_named(data.task)
    texts = [entry.rows() for entry in data.assessment.values()]
    headings = [heading for heading in texts[0] if heading != task.headline and any(text[heading] for text in texts)]
    rows = [_row(heading[:1].upper() + heading[1:], [text[heading] or "–" for text in texts]) for heading in headings]
    rows += _corruptions(list(data.assessment.values()), task)
    first = next(iter(data.assessment.values()))
    lead = f"On {first.count:,} test images. {first.note}".strip()
    shares = (40, *(60 // len(data.assessment) for _ in data.assessment))
    columns = ["", *(name.capitalize() for name in data.assessment)]
    heading = f"Beyond {task.headline}"
    return section(heading, lead, html_table(columns, rows, shares=shares, numeric=range(1, len(columns))))


def safety(data: ReportData) -> Html | None:
    """Every network and file side by side: what it tells of training images, and how it can be made to answer wrong."""
    if not data.safety:
        return None
    texts = [result.rows() for result in data.safety.values()]
    headings = dict.fromkeys(heading for text in texts for heading in text)
    rows = [_row(heading[:1].upper() + heading[1:], [text.get(heading, "–") for text in texts]) for heading in headings]
    lead = (
        "Membership inference calls images of low loss training images: .5 is chance. Attacks know the gradients of "
        "the PyTorch network; what counts are the answers of each network and file."
    )
    shares = (40, *(60 // len(texts) for _ in texts))
    columns = html_table(["", *data.safety], rows, shares=shares, numeric=range(1, len(texts) + 1))
    warnings = [tag("p", f"{line}.", class_="note") for line in safety_warnings(data.safety)]
    return section("Safety", lead, columns, warnings)


def _corruptions(assessments: list[Assessment], task: Task) -> list[Html]:
    corruptions = [assessment.corruptions or {} for assessment in assessments]
    names = dict.fromkeys(name for scores in corruptions for name in scores)
    if not names:
        return []
    title = f"{headline.title(task.headline)} on corrupted images, by strength"
    rows = [tag("tr", tag("th", title, colspan=str(len(assessments) + 1), scope="rowgroup"), class_="group")]
    for name in names:
        for level in range(max(len(scores.get(name, ())) for scores in corruptions)):
            cells: list[Child] = [
                headline.format_score(scores[name][level], task) if scores.get(name) else "–" for scores in corruptions
            ]
            rows.append(_row(f"{name.upper() if name == 'jpeg' else name.capitalize()}, {level + 1}", cells))
    return rows


def _row(label: str, cells: list[Child]) -> Html:
    return tag("tr", tag("th", label, scope="row"), [tag("td", cell, class_="number") for cell in cells])
