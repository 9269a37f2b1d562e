import json
import shutil

import pytest

from detection.commands.main import main
from detection.shapes import write_shapes


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("sound"), train=6, val=2, size=(64, 96))


@pytest.fixture
def examined(sound, tmp_path, capsys):
    """examined(change, splits) -> exit code, lines on the terminal, text of the page; change(content) edits a file."""

    def run(change, splits=("train", "val"), *options):
        root = tmp_path / "data"
        shutil.copytree(sound, root)
        for split in splits:
            path = root / f"annotations/instances_{split}.json"
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        page = tmp_path / "page.html"
        code = main(["doctor", "--config", "demo", "--data.root", str(root), "--html", str(page), *options])
        return code, capsys.readouterr().out.splitlines(), page.read_text()

    return run


def each(**fields):
    def change(content):
        for entry in content["annotations"]:
            entry |= fields

    return change


def has(lines, start, *words):
    assert any(line.startswith(start) and all(word in line for word in words) for line in lines), "\n".join(lines)


def test_crowds_alone_are_errors_that_name_the_remedy(examined):
    code, lines, page = examined(each(iscrowd=1))
    assert code == 2
    has(lines, "error   train: all ", "are crowds: nothing can be learned", "set iscrowd to 0")
    has(lines, "error   val: all ", "are crowds: nothing can be scored, AP is n/a (-1 in pycocotools)")
    has(lines, "  class ", "train  val  train crowds  val crowds")
    assert "nothing can be learned" in page
    assert any(line == "Memory" for line in lines)


def test_crowds_alone_in_one_class_are_a_warning(examined):
    def change(content):
        chosen = content["annotations"][0]["category_id"]
        for entry in content["annotations"]:
            entry["iscrowd"] = int(entry["category_id"] == chosen)

    code, lines, _ = examined(change, ["train"])
    assert code == 0
    has(lines, "warning train: 1 class has crowds only: ", "training cannot learn them")


def test_boxes_as_corners_are_an_error_and_no_info(examined):
    def change(content):
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["bbox"] = [x, y, x + w, y + h]

    code, lines, page = examined(change)
    assert code == 2
    has(
        lines,
        "error   train: the boxes look like left, top, right, bottom",
        "lie inside their image (in COCO's format ",
    )
    has(lines, "warning train: ", "boxes that reach over their image (cut)", "% of ")
    assert "left, top, right, bottom" in page


def test_few_boxes_over_the_border_are_no_more_than_an_info(examined):
    def change(content):
        image = content["images"][0]
        content["annotations"].append(
            {
                "id": 10**6, "image_id": image["id"], "category_id": content["categories"][0]["id"],
                "bbox": [image["width"] - 20, 5, 40, 40], "area": 1600, "iscrowd": 0,
            }
        )  # fmt: skip

    code, lines, _ = examined(change, ["train"])
    assert code == 0
    has(lines, "note    train: 1 box that reaches over its image (cut) (1000000)")


def test_what_is_ignored_and_what_is_marked_is_counted(examined):
    def change(content):
        first, second, third, *_ = content["annotations"]
        first["ignore"] = True
        second |= {"segmentation": [], "attributes": {"rotation": 90.0, "occluded": True}}
        third["difficult"] = 1

    code, lines, page = examined(change, ["train"])
    assert code == 0
    has(lines, "warning train: 1 object with ignore 1 (taken as a crowd: neither learned nor scored)")
    has(lines, "warning train: 1 rotated object (not followed")
    has(lines, "warning train: 1 object marked difficult")
    has(lines, "note    train: 1 object marked occluded")
    assert "rotated object" in page


def test_twins_are_counted_exact_and_near_ones_apart(examined):
    def change(content):
        number = 10**6
        for entry in list(content["annotations"]):
            content["annotations"].append({**entry, "id": number})
            number += 1
        one = max(content["annotations"][: len(content["annotations"]) // 2], key=lambda a: a["bbox"][2])
        x, y, w, h = one["bbox"]
        content["annotations"].append({**one, "id": 7 * 10**6, "bbox": [x, y, w - 0.01 * w, h]})

    code, lines, page = examined(change, ["train"])
    assert code == 0
    has(lines, "warning train: ", "objects that are annotated twice", "% of ", "1000000, 1000001")
    has(lines, "warning train: 1 object has nearly the box of another one", "7000000 as ")
    assert "annotated twice" in page


def test_a_class_of_regions_to_ignore_is_named(examined):
    def change(content):
        content["categories"][0]["name"] = "ignored regions"

    _, lines, _ = examined(change)
    has(lines, "warning train: the class 'ignored regions' stands for regions to ignore")


def test_splits_of_other_classes_have_tables_of_their_own(examined):
    def change(content):
        content["categories"].append({"id": 99, "name": "other"})

    code, lines, _ = examined(change, ["val"])
    assert code == 2
    assert lines.count("Objects by class") == 2


def test_a_file_of_images_alone_is_a_finding(examined):
    code, lines, _ = examined(lambda content: content.pop("annotations"), ["val"])
    assert code == 2
    has(lines, "error   val: ", "has no list 'annotations'", "only prediction works without them")
