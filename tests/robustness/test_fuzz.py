"""Some damage at every run; much more with ``-m slow`` or ``python tests/robustness/fuzz.py``."""

import pytest

from tests.robustness import fuzz_documents
from tests.robustness.fuzz import fuzz


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("files", "images"), [(300, 100), pytest.param(20_000, 2_000, marks=pytest.mark.slow)], ids=["some", "much"]
)
def test_damage_is_refused_by_name_or_does_no_harm(tmp_path, files, images):
    counts = fuzz(tmp_path, files, images, seed=0)
    assert min(counts["files"].values()) > files // 20
    assert min(counts["images"].values()) > images // 20


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [100, pytest.param(5_000, marks=pytest.mark.slow)], ids=["some", "much"])
def test_damaged_documents_and_labels_are_rejected_in_one_short_line_or_do_no_harm(number):
    for counts in fuzz_documents.fuzz(number, seed=0).values():
        assert min(counts.values()) > number // 40
