import json
import math

import pytest

from detection.report.changed import changed_images
from detection.report.compare import Difference, check_comparable, compare, interval, text
from detection.report.compare_page import page, summary
from tests.support import commands
from tests.support.commands import compare as main


@pytest.fixture(scope="module")
def two(folder, worse_results, tmp_path_factory):
    """Evaluations of a good and a worse detector."""
    pytest.importorskip("hotcoco", reason="the report is hotcoco's")
    root = tmp_path_factory.mktemp("compared")
    worse = root / "worse.json"
    worse.write_text(json.dumps(worse_results))
    for name, results in (("good", folder / "results.json"), ("worse", worse)):
        commands.evaluate(
            [str(results), "--annotations", str(folder / "truth.json"), "--output", str(root / name)]
            + ["--resamplings", "0"]
        )
    return root / "good", root / "worse"


def test_the_worse_one_is_called_worse(two):
    found = compare(*two, resamplings=200)
    AP = found["bbox/numbers"][0]
    assert AP.name == "AP"
    assert AP.second < AP.first
    assert AP.low < AP.difference < AP.high < 0
    assert AP.verdict == "worse"
    assert {d.name for d in found["bbox/classes"]} == {"cat", "dog"}
    # The mean over classes is what the classes' own numbers say.
    assert sum(d.first for d in found["bbox/classes"]) / 2 == pytest.approx(AP.first)


def test_one_with_itself_differs_in_nothing(two):
    for differences in compare(two[0], two[0], resamplings=50).values():
        assert all(d.difference == 0 or d.difference != d.difference for d in differences)
        assert all(d.verdict == "" for d in differences)


def test_what_cannot_be_compared_is_refused_with_the_reason(two, folder, tmp_path):
    other = tmp_path / "other"
    truth = json.loads((folder / "truth.json").read_text())
    truth["annotations"].pop()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    commands.evaluate(
        [str(folder / "results.json"), "--annotations", str(tmp_path / "truth.json"), "--output", str(other)]
        + ["--resamplings", "0"]
    )
    with pytest.raises(ValueError, match="other annotation files"):
        compare(two[0], other)
    same = {"annotations_sha256": "a", "image_ids_sha256": "b", "protocol": "coco", "ground_truth": "file"}
    check_comparable(same, dict(same))
    with pytest.raises(ValueError, match="other images"):
        check_comparable(same, same | {"image_ids_sha256": "c"})
    with pytest.raises(ValueError, match=r"evaluate the results_\*\.json .*: file and checked"):
        check_comparable(same, same | {"ground_truth": "checked"})
    with pytest.raises(ValueError, match="is not the file that was evaluated on"):
        compare(two[0], two[1], tmp_path / "truth.json")
    with pytest.raises(ValueError, match="not an evaluation folder"):
        compare(two[0], tmp_path)


def test_the_command_writes_a_page(two, tmp_path, capsys):
    main([*map(str, two), "--resamplings", "20", "--output", str(tmp_path)])
    assert "cat" in capsys.readouterr().out
    assert "95% interval" in (tmp_path / "comparison.html").read_text()
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["bbox/numbers"][0]["name"] == "AP"
    assert 0 < len(content["changed_images"]) <= 10
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), str(two[0])])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        main([*map(str, two), "--resamplings", "-1"])
    assert stop.value.code == 2


def test_a_class_in_two_images_has_no_interval(truth, results, tmp_path):
    rare = [{**r, "category_id": 9} if r["image_id"] in (2, 3) else r for r in results]
    changed = [{**a, "category_id": 9} if a["image_id"] in (2, 3) else a for a in truth["annotations"]]
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "annotations": changed}))
    for name, found in (("a", rare), ("b", [r for r in rare if r["category_id"] != 9])):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
        commands.evaluate(
            [str(tmp_path / f"{name}.json"), "--annotations", str(tmp_path / "truth.json")]
            + ["--output", str(tmp_path / name), "--resamplings", "0"]
        )
    found = compare(tmp_path / "a", tmp_path / "b", resamplings=50)
    classes = {d.name: d for d in found["bbox/classes"]}
    assert classes["<bird>"].difference < 0
    assert text({"bbox/classes": [classes["<bird>"]]}).endswith("(–)")
    assert classes["cat"].low <= classes["cat"].difference <= classes["cat"].high
    large = next(d for d in found["bbox/numbers"] if d.name == "APl")
    assert all(number != number for number in (large.difference, large.low, large.high))


def test_only_what_both_reports_have_is_compared(folder, results, tmp_path):
    boxes = tmp_path / "boxes"
    masked = [r | {"segmentation": {"size": [120, 160], "counts": [0, 100, 120 * 160 - 100]}} for r in results]
    (tmp_path / "both.json").write_text(json.dumps(masked))
    rest = ["--annotations", str(folder / "truth.json"), "--resamplings", "0", "--output"]
    commands.evaluate([str(tmp_path / "both.json"), *rest, str(tmp_path / "both")])
    commands.evaluate([str(folder / "results.json"), *rest, str(boxes)])
    (boxes / "results_segm.json").write_bytes((tmp_path / "both" / "results_segm.json").read_bytes())  # of others
    assert {key.split("/")[0] for key in compare(tmp_path / "both", boxes, resamplings=0)} == {"bbox"}


def test_a_dot_and_its_interval_stand_for_each_metric_and_each_class(two):
    found = compare(*two, resamplings=50)
    html = page("good", "worse", found)
    with_value = [d for differences in found.values() for d in differences if d.difference == d.difference]
    assert html.count("<circle") == len(with_value)
    assert "Boxes: AP by class" in html
    assert summary(found).startswith("B compared with A: box AP -")
    assert summary(found).endswith(", worse.")


def test_images_that_changed_most_come_first_with_both_results(two, folder):
    reports = [json.loads((one / "report.json").read_text()) for one in two]
    before, after = ({row["image_id"]: row["F1"] for row in one["bbox"]["by_image"]} for one in reports)
    found = changed_images(*two, most=5)
    sizes = sorted((abs(after[id] - F1) for id, F1 in before.items()), reverse=True)
    assert [abs(one.second - one.first) for one in found] == sizes[:5]
    assert all(one.images is None for one in found)  # the evaluations had no images
    drawn = changed_images(*two, images=folder / "images", most=5)
    assert all(one.images and one.images[0].url != one.images[1].url for one in drawn)
    html = page("good", "worse", {}, drawn)
    assert html.count("data:image/jpeg") == 10
    assert changed_images(two[0], two[0]) == []


@pytest.mark.parametrize(
    ("low", "high", "verdict", "text"),
    [
        (0.0006, 0.02, "better", "+0.1 to +2.0"),
        (0.0004, 0.02, "", "+0.0 to +2.0"),
        (-0.02, -0.0006, "worse", "-2.0 to -0.1"),
        (-0.02, -0.0004, "", "-2.0 to +0.0"),
        (math.nan, math.nan, "", "–"),
    ],
)
def test_better_and_worse_go_with_the_interval_as_it_is_written(low, high, verdict, text):
    difference = Difference("AP", 0.5, 0.51, low, high)
    assert (difference.verdict, interval(difference)) == (verdict, text)
