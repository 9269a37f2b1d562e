"""Class names in any script: drawn, spelled out, or replaced by a number; never drawn as question marks."""

import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ImageFont, features

from detection import text
from detection.text import fit, readable, write

DEJAVU = next((path for path in text._candidates() if path.stem == "DejaVuSans"), None)
needs_dejavu = pytest.mark.skipif(DEJAVU is None, reason="neither matplotlib nor the system has the font DejaVu Sans")
WHITE = (255, 255, 255)


@pytest.fixture
def old_opencv(monkeypatch):
    """OpenCV 4, whose fonts have ASCII alone."""
    monkeypatch.setattr(text, "_opencv_has", str.isascii)
    forget(monkeypatch)


def forget(monkeypatch):
    monkeypatch.setattr(text, "_fonts", {})
    monkeypatch.setattr(text, "_misses", Counter())
    text._readable.cache_clear()


def drawn(words: str, size: int = 20, limit: int = 600) -> np.ndarray:
    picture = np.zeros((60, 640, 3), np.uint8)
    write(picture, fit(words, size, limit), (10, 40), WHITE)
    return picture


def test_ascii_is_drawn_by_opencv_and_looks_for_no_font(monkeypatch):
    monkeypatch.setattr(text, "_font_of", lambda words: pytest.fail("looked for a font"))
    (_, capital), _ = cv2.getTextSize("H", cv2.FONT_HERSHEY_DUPLEX, 1.0, 1)
    expected = np.zeros((60, 640, 3), np.uint8)
    cv2.putText(expected, "person 0.91", (10, 40), cv2.FONT_HERSHEY_DUPLEX, 20 / capital, WHITE, 1, cv2.LINE_AA)
    assert np.array_equal(drawn("person 0.91"), expected)
    assert readable("person", 3) == "person"


@needs_dejavu
@pytest.mark.parametrize("name", ["Straße", "Ampel für Fußgänger", "машина", "αυτοκίνητο", "naïve", "xe đạp"])
def test_other_alphabets_are_drawn_with_a_font_that_has_them(old_opencv, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert readable(name, 0) == name
    picture = drawn(f"{name} 0.91")
    font = ImageFont.truetype(str(fit(name, 20, 600).font), round(20 / 0.73))
    columns = np.nonzero(picture.any(axis=(0, 2)))[0]
    end = 10 + font.getlength(f"{name} 0.91")
    assert 10 <= columns.min() <= 14  # a letter leaves up to 4 pixels at its sides
    assert end - 4 <= columns.max() + 1 <= end + 1
    assert not np.array_equal(picture, drawn("?" * len(name) + " 0.91"))


@needs_dejavu
@pytest.mark.skipif(not features.check("raqm"), reason="Pillow has no Raqm here")
def test_letters_that_run_from_right_to_left_are_joined_and_ordered(old_opencv):
    assert readable("سيارة", 0) == "سيارة"
    joined, apart = (fit(words, 20, 600).width for words in ("سيارة", "س ي ا ر ة"))
    assert joined < 0.8 * apart
    # The first letter of the word is its right end.
    first, both = drawn("ש"), drawn("שא")
    assert np.nonzero(both.any(axis=(0, 2)))[0].max() > np.nonzero(first.any(axis=(0, 2)))[0].max()


def test_text_from_right_to_left_without_a_shaper_is_a_number(old_opencv, monkeypatch):
    monkeypatch.setattr(text.features, "check", lambda feature: False)
    with pytest.warns(
        UserWarning, match="no font on this machine can show the class name سيارة: images show 'class 7' instead"
    ):
        assert readable("سيارة", 7) == "class 7"


def test_without_a_font_names_become_numbers_and_emoji_their_names(old_opencv, monkeypatch):
    monkeypatch.setattr(text, "_candidates", lambda: (Path(__file__),))  # no font
    for label, name in enumerate(["汽车", "машина"]):
        with pytest.warns(
            UserWarning, match=f"show the class name {name}: images show 'class {label}' instead. Install"
        ):
            assert readable(name, label) == f"class {label}"
        with warnings.catch_warnings():  # once is enough
            warnings.simplefilter("error")
            assert readable(name, label) == f"class {label}"
    assert readable("🚗 car", 0) == ":automobile: car"
    assert readable("👨\u200d👩\u200d👧", 0) == ":man::woman::girl:"


def test_a_script_without_a_font_costs_a_few_searches(old_opencv, monkeypatch):
    looked = []
    monkeypatch.setattr(text, "_candidates", lambda: looked.append(1) or ())
    for number in range(50):
        assert text._font_of(chr(0x6C00 + number)) is None
    assert len(looked) == text.MOST_MISSES


@needs_dejavu
def test_decomposed_letters_are_drawn_as_one(old_opencv):
    assert readable(unicodedata.normalize("NFD", "Käse"), 0) == "Käse"


@needs_dejavu
def test_names_out_of_files_are_one_line_without_controls(old_opencv):
    assert readable("a\nb\x1b[2J", 0) == "a\\nb\\x1b[2J"
    assert len(readable("ж" * 1000, 0)) == 60


def test_what_opencv_has_is_found_by_drawing_it(monkeypatch):
    real = cv2.putText

    def bytewise(picture, words, *rest):
        """As OpenCV 4 does: a question mark for each byte beyond ASCII."""
        return real(picture, "".join(c if c.isascii() else "?" * len(c.encode()) for c in words), *rest)

    text._opencv_has_one.cache_clear()
    monkeypatch.setattr(cv2, "putText", bytewise)
    assert [text._opencv_has(words) for words in ("car", "?", "ж", "汽", "🚗")] == [True, True, False, False, False]
    text._opencv_has_one.cache_clear()


@needs_dejavu
def test_text_wider_than_its_place_shrinks_and_what_leaves_the_picture_is_cut(old_opencv):
    line = fit("очень длинное имя", 30, 100)
    assert line.width == 100
    small = np.nonzero(drawn("очень длинное имя", 30, 100).any(axis=(0, 2)))[0]
    assert small.max() - small.min() == pytest.approx(100, abs=8)
    picture = np.zeros((20, 30, 3), np.uint8)
    for place in ((-50, 10), (25, 2), (0, 40), (100, 100)):
        write(picture, fit("жук", 20, 100), place, WHITE)
    assert picture.any()
