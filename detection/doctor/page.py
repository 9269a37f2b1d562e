"""The diagnosis as one HTML page that needs nothing else."""

from collections.abc import Sequence
from html import escape

from detection.doctor.findings import ORDER, Diagnosis, cell
from detection.report.frame import frame
from detection.report.page import table

TONES = {"error": "c4", "warning": "c1", "info": "c0"}


def page(title: str, diagnosis: Diagnosis, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The whole page.

    Args:
        pictures: captions, and pictures as data URLs.
    """
    rows = []
    for finding in sorted(diagnosis.findings, key=lambda f: ORDER.index(f.severity)):
        ids = f"<br><small>{escape(', '.join(finding.ids))}</small>" if finding.ids else ""
        rows.append(
            [
                f'<b class="{TONES[finding.severity]}">{finding.severity}</b>',
                escape(finding.split),
                escape(finding.what) + ids,
                escape(finding.advice),
            ]
        )
    parts = [table(["", "where", "what", "what to do"], rows) if rows else "<p>Nothing was found.</p>"]
    for one in diagnosis.tables:
        cells = [[escape(cell(value)) for value in row] for row in one.rows]
        parts.append(f"<h3>{escape(one.title)}</h3>{table(one.heads, cells, numeric=range(1, len(one.heads)))}")
        parts.append(f'<p class="note">{escape(one.note)}</p>' if one.note else "")
    if pictures:
        tiles = "".join(
            f'<figure><img src="{url}" alt="{escape(caption)}" loading="lazy">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, url in pictures
        )
        parts.append(f'<h3>Worth a look</h3><div class="pair">{tiles}</div>')
    return frame(title, "".join(parts))
