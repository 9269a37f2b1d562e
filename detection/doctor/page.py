"""Write a diagnosis as one HTML page that needs no network."""

from collections.abc import Sequence
from html import escape

from detection.doctor.findings import NAMES, ORDER, Diagnosis, cell
from detection.report.frame import frame
from detection.report.page import image, script, table
from detection.report.pictures import Picture


def page(title: str, diagnosis: Diagnosis, examples: Sequence[tuple[str, Picture]] = ()) -> str:
    """Write the whole page.

    Args:
        examples: captions and images.
    """
    findings = sorted(diagnosis.findings, key=lambda f: ORDER.index(f.severity))
    rows = []
    for finding in findings:
        ids = f"<br><small>{escape(', '.join(finding.ids))}</small>" if finding.ids else ""
        rows.append(
            [
                f"<b>{NAMES[finding.severity]}</b>",
                escape(finding.split),
                escape(finding.what) + ids,
                escape(finding.advice),
            ]
        )
    heads = ["severity", "where", "what", "what to do"]
    tones = [finding.severity for finding in findings]
    parts = [table(heads, rows, tones=tones) if rows else ""]
    for one in diagnosis.tables:
        cells = [[escape(cell(value)) for value in row] for row in one.rows]
        content = table([*map(escape, one.heads)], cells, numeric=range(1, len(one.heads)))
        note = f'<p class="note">{escape(one.note)}</p>' if one.note else ""
        parts.append(f"<div><h3>{escape(one.title)}</h3>{content}{note}</div>")
    parts = [parts[0], f'<div class="pair tables">{"".join(parts[1:])}</div>']
    if examples:
        tiles = "".join(
            f"<figure>{image(picture, caption)}<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, picture in examples
        )
        parts.append(f'<h3>Examples</h3><div class="tiles large">{tiles}</div>')
    head = f'<p class="lead">{escape(diagnosis.summary())}</p>'
    return frame(title, "".join(parts), head, script("page.js") if examples else "")
