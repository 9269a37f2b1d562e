"""Text on pictures, in any script.

OpenCV draws what its own fonts have: ASCII, and from version 5 on much more. For other text this module looks for a
font with all characters: DejaVu, which comes with matplotlib, then the fonts of the system. Where there is none,
:func:`readable` gives emoji by their names, and classes by their numbers.
"""

import os
import sys
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from detection.foreign import shown

HERSHEY = cv2.FONT_HERSHEY_DUPLEX
CAPITAL = 0.73
"""Height of a capital letter, as a share of a font's size; nearly the same in all of them."""

MOST_MISSES = 5
"""Searches for a script that may fail; after these the machine is taken to have no font for it."""

Ink = tuple[int, int, int]


@dataclass(frozen=True)
class Text:
    """A line of text that :func:`write` draws."""

    words: str
    width: int
    """In pixels."""
    scale: float
    """Of OpenCV's font; or, with ``font``, the font's size in pixels."""
    font: Path | None = None


def fit(words: str, size: int, limit: int) -> Text:
    """Lay a line out with capitals of ``size`` pixels; smaller if it would be wider than ``limit``."""
    font = None if _opencv_has(words) else _font_of(words)
    if font is None:
        (_, capital), _ = cv2.getTextSize("H", HERSHEY, 1.0, 1)
        scale = size / capital
        (width, _), _ = cv2.getTextSize(words, HERSHEY, scale, 1)
    else:
        scale = size / CAPITAL
        width = round(_load(font, scale).getlength(words))
    return Text(words, width, scale, font) if width <= limit else Text(words, limit, scale * limit / width, font)


def write(picture: np.ndarray, text: Text, place: tuple[int, int], ink: Ink) -> None:
    """Draw a line in place; ``place`` is the left end of its base line."""
    if text.font is None:
        cv2.putText(picture, text.words, place, HERSHEY, text.scale, ink, 1, cv2.LINE_AA)
        return
    font = _load(text.font, text.scale)
    left, top, right, bottom = (round(value) for value in font.getbbox(text.words, anchor="ls"))
    height, width = picture.shape[:2]
    x0, y0 = max(place[0] + left, 0), max(place[1] + top, 0)
    x1, y1 = min(place[0] + right + 1, width), min(place[1] + bottom + 1, height)
    if x0 < x1 and y0 < y1:
        part = Image.fromarray(np.ascontiguousarray(picture[y0:y1, x0:x1]))
        ImageDraw.Draw(part).text((place[0] - x0, place[1] - y0), text.words, ink, font, anchor="ls")
        picture[y0:y1, x0:x1] = np.asarray(part)


def readable(name: str, label: int) -> str:
    """What to write for a class: its name, with emoji by their names, or its number where no font can show it.

    The first use of a number is reported by a warning.
    """
    if name.isascii() and name.isprintable() and len(name) <= 60:
        return name
    return _readable(name, label)


@cache
def _readable(name: str, label: int) -> str:
    line = unicodedata.normalize("NFC", shown(name))
    for words in (line, "".join(_spelled(sign) for sign in line)):
        if _opencv_has(words) or _font_of(f"{words} 0123456789."):
            return words
    warnings.warn(
        f"no font on this machine shows the class {line}: pictures say 'class {label}' instead; install a font with "
        "these characters, such as Noto Sans CJK, or matplotlib, which brings DejaVu",
        stacklevel=2,
    )
    return f"class {label}"


def _spelled(sign: str) -> str:
    """An emoji by its Unicode name, such as ``:automobile:``, without selectors and joiners; others as they are."""
    kind = unicodedata.category(sign)
    if kind in ("So", "Sk"):
        return f":{unicodedata.name(sign, 'symbol').lower()}:"
    return "" if _invisible(sign) else sign


def _invisible(sign: str) -> bool:
    return sign in "\u200c\u200d" or 0xFE00 <= ord(sign) <= 0xFE0F


def _opencv_has(words: str) -> bool:
    """Whether OpenCV's own fonts have all characters, and need not put them in another order."""
    return words.isascii() or all(sign.isascii() or _opencv_has_one(sign) for sign in set(words))


@cache
def _opencv_has_one(sign: str) -> bool:
    if _needs_shaping(sign) or _invisible(sign):
        return False
    drawn, *unknown = (np.zeros((40, 120), np.uint8) for _ in range(5))
    cv2.putText(drawn, sign, (5, 30), HERSHEY, 1.0, 255, 1)
    for number, picture in enumerate(unknown, start=1):  # a question mark, or one for each byte
        cv2.putText(picture, "?" * number, (5, 30), HERSHEY, 1.0, 255, 1)
    return bool(drawn.any()) and not any(np.array_equal(drawn, picture) for picture in unknown)


_fonts: dict[frozenset[str], list[Path]] = {}
_misses: Counter[frozenset[str]] = Counter()
"""By the scripts of a text: fonts that were found, and texts without one. Each search looks into all fonts."""


def _font_of(words: str) -> Path | None:
    """The first font with all characters of a text; None if there is none, or nothing here can put them in order."""
    signs = {sign for sign in words if not sign.isspace() and not _invisible(sign)}
    if any(_needs_shaping(sign) for sign in signs) and not features.check("raqm"):
        return None
    scripts = frozenset(unicodedata.name(sign, "").partition(" ")[0] for sign in signs if not sign.isascii())
    for font in _fonts.setdefault(scripts, []):
        if _has(font, signs):
            return font
    if _misses[scripts] >= MOST_MISSES:
        return None
    for font in _candidates():
        if _has(font, signs):
            _fonts[scripts].append(font)
            return font
    _misses[scripts] += 1
    return None


def _needs_shaping(sign: str) -> bool:
    """Whether letters run from right to left, or are combined, so that one after the other would be wrong."""
    return unicodedata.bidirectional(sign) in ("R", "AL") or unicodedata.category(sign) in ("Mn", "Mc")


def _has(font: Path, signs: set[str]) -> bool:
    """Whether a font has a glyph for each character: one that differs from what it shows for none."""
    try:
        loaded = _load(font, 24)
        none = _pixels(loaded, "\U0010ffff")
        return all(_pixels(loaded, sign) != none for sign in signs)
    except (OSError, ValueError):  # no font, or one of pictures of another size
        return False


def _pixels(font: ImageFont.FreeTypeFont, sign: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(sign)
    return mask.size, bytes(mask)


@cache
def _candidates() -> tuple[Path, ...]:
    """Fonts to try: upright ones without serifs first."""
    spec = find_spec("matplotlib")
    own = [
        Path(place) / "mpl-data/fonts/ttf/DejaVuSans.ttf" for place in (spec and spec.submodule_search_locations) or ()
    ]
    found = [
        path for folder in _folders() for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]
    odd = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black")
    order = sorted(found, key=lambda path: (sum(word in path.stem.lower() for word in odd), path.name))
    # A font of last resort has a box for every character.
    return tuple(path for path in (*own, *order) if path.is_file() and "lastresort" not in path.stem.lower())


def _folders() -> list[Path]:
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home))
        return [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", local / "Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"]


def _load(font: Path, size: float) -> ImageFont.FreeTypeFont:
    return _loaded(font, max(4, round(size)))


@lru_cache(maxsize=16)  # each holds a file open
def _loaded(font: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font), size)
