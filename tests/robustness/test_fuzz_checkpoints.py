"""Some damage at every run; much more with ``-m slow`` or ``python tests/robustness/fuzz_checkpoints.py``."""

import pytest

from tests.robustness.fuzz_checkpoints import fuzz


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("files", "resumed"), [(8, 1), pytest.param(2_000, 40, marks=pytest.mark.slow)], ids=["some", "much"]
)
def test_a_damaged_checkpoint_is_refused_by_name_or_does_no_harm(tmp_path, files, resumed):
    counts = fuzz(tmp_path, files, seed=0, resumed=resumed)
    assert min(counts["sound"], counts["refused"]) > files // 20
    assert counts["MB above a training"] < 300
