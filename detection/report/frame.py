"""Write the frame of every HTML page: one file, which needs no network, with the style of the report."""

from html import escape
from importlib.resources import files

from detection.foreign import printable


def frame(title: str, body: str, head: str = "", script: str = "") -> str:
    """Write a whole page, without characters that would reverse or hide its text.

    Args:
        body: HTML of the main part.
        head: HTML under the title.
        script: JavaScript; the page must be complete without it.
    """
    style = files("detection.report").joinpath("page.css").read_text(encoding="utf-8")
    comfort = f"<script>{script}</script>" if script else ""
    return printable(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><header><h1>{escape(title)}</h1>{head}</header><main>{body}</main>{comfort}</body></html>\n"
    )
