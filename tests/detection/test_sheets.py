"""Sheets of images: equal tiles, no white, and never larger than allowed."""

import numpy as np
import pytest

from detection.sheets import GROUND, PANEL, sheet

RED = (250, 10, 20)


def cell(height: int, width: int) -> list[tuple[str, np.ndarray]]:
    image = np.full((height, width, 3), RED, np.uint8)
    return [("left", image), ("right", image)]


@pytest.mark.parametrize("number", [1, 2, 5, 40])
def test_a_sheet_has_equal_tiles_and_a_limit(number: int) -> None:
    cells = [cell(100, 150), cell(150, 100), *[cell(100, 150)] * 38][:number]
    picture = sheet(cells, "a title", columns=2)
    assert max(picture.shape) <= 1600
    inside = (picture == PANEL).all(-1) | (np.abs(picture.astype(int) - RED) < 3).all(-1)
    # Widths of tiles and of gaps in the last row.
    widths = np.diff(np.flatnonzero(np.diff(np.pad(inside[-16], 1).astype(int))))
    last = 1 if number % 2 else 2
    assert len(widths[::2]) == 2 * last
    assert len(set(widths[::2].tolist())) == 1
    assert not (picture == 255).all(-1).any()


def test_an_image_is_centred_in_its_tile() -> None:
    picture = sheet([[("a", np.full((100, 100, 3), RED, np.uint8))], [("b", np.full((50, 100, 3), RED, np.uint8))]])
    assert (picture[0, 0] == GROUND).all()
    assert (picture == PANEL).all(-1).any()
