"""Draw text on images, in any script.

OpenCV can draw the characters of its own fonts: ASCII, and from version 5 on many more. For other text, this module
searches a font with all characters: DejaVu, which matplotlib includes, then the fonts of the system. If there is none,
:func:`readable` replaces emoji by their names, and class names by class numbers.
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
"""Height of a capital letter, as a fraction of the font size; almost the same in all fonts."""

MOST_MISSES = 5
"""Number of failed searches after which the module assumes that the machine has no font for a script."""

Ink = tuple[int, int, int]


@dataclass(frozen=True)
class Text:
    """A line of text that :func:`write` draws."""

    words: str
    width: int
    """Width in pixels."""
    scale: float
    """Scale of OpenCV's font; with ``font``, the font size in pixels."""
    font: Path | None = None


def fit(words: str, size: int, limit: int) -> Text:
    """Lay out a line with capitals of ``size`` pixels; smaller if it would be wider than ``limit``."""
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
    """Draw a line into an image; ``place`` is the left end of its baseline."""
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
    """Return the text for a class: its name, with names of emoji, or its number if no font can show the name.

    The first use of a number gives a warning.
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
        f"no font on this machine can show the class name {line}: images show 'class {label}' instead. Install a font "
        "with these characters, such as Noto Sans CJK, or matplotlib, which includes DejaVu",
        stacklevel=2,
    )
    return f"class {label}"


def _spelled(sign: str) -> str:
    """Replace an emoji by its Unicode name, such as ``:automobile:``; remove selectors and joiners."""
    kind = unicodedata.category(sign)
    if kind in ("So", "Sk"):
        return f":{unicodedata.name(sign, 'symbol').lower()}:"
    return "" if _invisible(sign) else sign


def _invisible(sign: str) -> bool:
    return sign in "\u200c\u200d" or 0xFE00 <= ord(sign) <= 0xFE0F


def _opencv_has(words: str) -> bool:
    """Return whether OpenCV's own fonts have all characters, and can draw them in this order."""
    return words.isascii() or all(sign.isascii() or _opencv_has_one(sign) for sign in set(words))


@cache
def _opencv_has_one(sign: str) -> bool:
    if _needs_shaping(sign) or _invisible(sign):
        return False
    drawn, *unknown = (np.zeros((40, 120), np.uint8) for _ in range(5))
    cv2.putText(drawn, sign, (5, 30), HERSHEY, 1.0, 255, 1)
    for number, picture in enumerate(unknown, start=1):  # OpenCV draws one question mark, or one per byte
        cv2.putText(picture, "?" * number, (5, 30), HERSHEY, 1.0, 255, 1)
    return bool(drawn.any()) and not any(np.array_equal(drawn, picture) for picture in unknown)


_fonts: dict[frozenset[str], list[Path]] = {}
_misses: Counter[frozenset[str]] = Counter()
"""Number of failed searches by script. Each search reads all fonts."""


def _font_of(words: str) -> Path | None:
    """Return the first font with all characters of a text; None if there is none, or if shaping is not available."""
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
    """Return whether a character needs text shaping: it runs from right to left, or combines with others."""
    return unicodedata.bidirectional(sign) in ("R", "AL") or unicodedata.category(sign) in ("Mn", "Mc")


def _has(font: Path, signs: set[str]) -> bool:
    """Return whether a font has a glyph for each character, that is, one that differs from its placeholder glyph."""
    try:
        loaded = _load(font, 24)
        none = _pixels(loaded, "\U0010ffff")
        return all(_pixels(loaded, sign) != none for sign in signs)
    except (OSError, ValueError):  # not a font, or a bitmap font of another size
        return False


def _pixels(font: ImageFont.FreeTypeFont, sign: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(sign)
    return mask.size, bytes(mask)


@cache
def _candidates() -> tuple[Path, ...]:
    """Return the fonts to try, upright sans-serif fonts first."""
    spec = find_spec("matplotlib")
    own = [
        Path(place) / "mpl-data/fonts/ttf/DejaVuSans.ttf" for place in (spec and spec.submodule_search_locations) or ()
    ]
    found = [
        path for folder in _folders() for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]
    odd = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black")
    order = sorted(found, key=lambda path: (sum(word in path.stem.lower() for word in odd), path.name))
    # The LastResort font has a box for every character.
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


@lru_cache(maxsize=16)  # each font keeps a file open
def _loaded(font: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font), size)
