import pytest

from tools.benchmark.evaluation import evaluation_rows


@pytest.mark.slow
def test_rows_have_what_the_table_shows():
    pytest.importorskip("hotcoco")
    boxes, masks, encoding = evaluation_rows(1, images=260, detections=2)
    assert boxes["what"] == "evaluation, 260 x 2 boxes"
    assert list(masks["seconds"])[-2:] == ["ours, at the end", "hotcoco"]
    for row in (boxes, masks, encoding):
        assert min(min(seconds) for seconds in row["rounds"].values()) > 0
        assert row["ratio"].keys() <= row["seconds"].keys()
