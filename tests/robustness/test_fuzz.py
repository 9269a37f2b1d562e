"""Some damage at every run; much of it with ``-m slow`` or ``python tests/robustness/fuzz.py``."""

import pytest

from tests.robustness.fuzz import fuzz


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("files", "images"), [(300, 100), pytest.param(20_000, 2_000, marks=pytest.mark.slow)], ids=["some", "much"]
)
def test_damage_is_refused_by_name_or_does_no_harm(tmp_path, files, images):
    counts = fuzz(tmp_path, files, images, seed=0)
    assert min(counts["files"].values()) > files // 20
    assert min(counts["images"].values()) > images // 20
