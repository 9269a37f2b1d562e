"""The frame of every HTML page here: one file, which needs no network, with the style of the report."""

from html import escape
from importlib.resources import files

from detection.foreign import printable


def frame(title: str, body: str, head: str = "", script: str = "") -> str:
    """A whole page, without signs that would turn its text round or hide it.

    Args:
        body: HTML of the main part.
        head: HTML under the title.
        script: JavaScript, for comfort only.
    """
    style = files("detection.report").joinpath("page.css").read_text(encoding="utf-8")
    comfort = f"<script>{script}</script>" if script else ""
    return printable(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><header><h1>{escape(title)}</h1>{head}</header><main>{body}</main>{comfort}</body></html>\n"
    )
