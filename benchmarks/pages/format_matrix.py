"""The table of docs/export.md: every format and every network of the matrix."""

from __future__ import annotations

from format_matrix import FORMATS, NAMES, Row, read

from pages.generated_part import GeneratedPart

PART = GeneratedPart("export.md", "matrix")


def update(*, write: bool = True) -> bool:
    """Write the table; returns whether the page held another one."""
    return PART.update(table(list(read().values())), write=write)


def table(rows: list[Row]) -> str:
    """The results as they stand in docs/export.md."""
    header = ["network, pruned 4x", "format", "fp32 error", "int8 agreement", "SQNR", "accuracy fp32, int8", "bytes"]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for row in rows:
        fp32, int8 = row["fp32"], row["int8"]
        error = "refused" if "refused" in fp32 else f"{max(fp32['errors'].values()):.0e}"
        if "refused" in int8:
            cells = ["refused", "", "", ""]
        else:
            accuracy = f"{int8['reference_quality']:.1%}, {int8['quality']:.1%}"
            sizes = "" if "refused" in fp32 else f"{fp32['bytes']:,}, {int8['bytes']:,}"
            cells = [f"{int8['agreement']:.1%}", f"{int8['sqnr']:.0f} dB", accuracy, sizes]
        lines.append(f"| {' | '.join([row['model'], row['format'], error, *cells])} |")
    versions = {name: version for row in rows for name, version in row["versions"].items() if name != "torch"}
    notes = [f"With {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}."]
    for row in rows:
        for precision in ("fp32", "int8"):
            if "refused" in row[precision]:
                notes.append(f"- {row['model']} in {row['format']}, {precision}: {row[precision]['refused']}")
    done = {(row["model"], row["format"]) for row in rows}
    missing = {name: [format for format in sorted(FORMATS) if (name, format) not in done] for name in NAMES}
    if any(missing.values()):
        told = "; ".join(f"{name} in {', '.join(formats)}" for name, formats in missing.items() if formats)
        notes += ["", f"Not measured yet: {told}."]
    return "\n".join([*lines, "", *notes]) + "\n"
