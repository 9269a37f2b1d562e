"""The page to try the server: one HTML file that loads nothing from elsewhere."""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files


@cache
def page() -> str:
    """Return the page with its style and its script inside."""
    html = _file("page.html")
    return html.replace("<style></style>", f"<style>{_file('page.css')}</style>").replace(
        "<script></script>", f"<script>{_file('page.js')}</script>"
    )


@cache
def policy() -> str:
    """Return the content security policy of the page: its own style and script, and connections to this server."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash('page.css')}'",
            f"script-src '{_hash('page.js')}'",
            "connect-src 'self'",
            "img-src blob: data:",
            "media-src blob:",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _file(name: str) -> str:
    return files("detection.serve").joinpath(name).read_text(encoding="utf-8")


def _hash(name: str) -> str:
    return f"sha256-{b64encode(sha256(_file(name).encode()).digest()).decode()}"
