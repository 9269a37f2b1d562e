"""Predictions in Python code of users."""

import io
import json
import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageShow
from pycocotools import mask as coco_mask

from detection.categories import Categories
from detection.inference import Detection, Prediction

HEIGHT, WIDTH = 40, 60
BOXES = [[5.0, 5, 25, 25], [30, 10, 50, 20], [0, 0, 60, 40]]


CATEGORIES = Categories(("cat", "dog"), (3, 9))


def make(image=None, masks=True, categories=CATEGORIES):
    """Two cats and a dog; each mask fills its box."""
    rles = []
    for x0, y0, x1, y1 in BOXES:
        frame = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        frame[int(y0) : int(y1), int(x0) : int(x1)] = 1
        rle = coco_mask.encode(frame)
        rles.append(rle | {"counts": rle["counts"].decode()})
    scores, labels = np.array([0.9, 0.6, 0.3], np.float32), np.array([0, 1, 0])
    boxes = np.array(BOXES, np.float32)
    return Prediction(boxes, scores, labels, (HEIGHT, WIDTH), rles if masks else None, categories, image)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(params=["array", "file"])
def found(request, image, tmp_path):
    if request.param == "array":
        return make(image)
    cv2.imwrite(str(tmp_path / "image.png"), image[..., ::-1])
    return make(tmp_path / "image.png")


def test_it_is_a_sequence_of_detections():
    found = make()
    assert [(one.name, one.label, round(one.score, 5)) for one in found] == [
        ("cat", 0, 0.9),
        ("dog", 1, 0.6),
        ("cat", 0, 0.3),
    ]
    assert found.names == ["cat", "dog", "cat"]
    first, last = found[0], found[np.int64(-1)]
    assert isinstance(first, Detection)
    assert first.box.tolist() == BOXES[0]
    assert last.box.tolist() == BOXES[2]
    assert np.array_equal(first.mask, found.mask(0))
    assert make(masks=False)[0].mask is None
    with pytest.raises(IndexError):
        found[3]


def test_slices_places_and_conditions_give_predictions():
    found = make(image := np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for index in (slice(1, None), [1, 2], np.array([1, 2]), np.array([False, True, True])):
        some = found[index]
        assert isinstance(some, Prediction)
        assert some.boxes.tolist() == BOXES[1:]
        assert some.rles == found.rles[1:]
        assert some.image is image


def test_its_text_is_short():
    assert repr(make()) == "Prediction(2 cat, 1 dog; 60 x 40)"
    assert repr(make()[[]]) == "Prediction(no objects; 60 x 40)"
    assert repr(make(categories=None)) == "Prediction(2 0, 1 1; 60 x 40)"
    assert repr(make()[0]) == "Detection(cat 0.90, box 5.0 5.0 25.0 25.0)"
    names = tuple("abcdefgh")
    many = Prediction(
        np.zeros((8, 4), np.float32),
        np.ones(8, np.float32),
        np.arange(8),
        (9, 9),
        categories=Categories(names, tuple(range(8))),
    )
    assert repr(many) == "Prediction(1 a, 1 b, 1 c, 1 d, 1 e, 3 of 3 other classes; 9 x 9)"


def test_names_that_others_wrote_cannot_command_a_terminal():
    found = make(categories=Categories(("cat\x1b[2J", "dog"), (3, 9)))
    assert "\x1b" not in repr(found) + repr(found[0])


def test_counts_and_filters():
    found = make()
    assert list(found.counts().items()) == [("cat", 2), ("dog", 1)]
    assert found.filter(score=0.6).scores.tolist() == found.scores[:2].tolist()
    assert found.filter(classes="dog").labels.tolist() == [1]
    assert found.filter(score=0.5, classes=["cat"]).boxes.tolist() == BOXES[:1]
    assert len(found.filter()) == 3
    assert make(categories=None).filter(classes=["1"]).labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"^filter: the model has no class cats; did you mean cat\?$"):
        found.filter(classes="cats")


def test_the_least_area_is_that_of_the_mask_or_of_the_box():
    for found in (make(), make(masks=False)):
        assert found.filter(min_area=300).boxes.tolist() == [BOXES[0], BOXES[2]]
    found = make()
    found.rles[2] = found.rles[1]
    assert found.filter(min_area=300).boxes.tolist() == [BOXES[0]]


def test_pictures_show_what_is_asked_for(found, image):
    everything = found.plot()
    assert everything.dtype == np.uint8
    assert everything.shape[0] % HEIGHT == everything.shape[1] % WIDTH == 0
    nothing = found.plot(boxes=False, masks=False, names=False, scores=False)
    assert np.array_equal(nothing, make(image)[[]].plot())
    pictures = [everything, nothing]
    pictures += [found.plot(**{part: False}) for part in ("boxes", "masks", "names", "scores")]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert np.array_equal(found.plot(image=image), everything)
    assert np.array_equal(make().plot(image=image), everything)


def test_a_picture_is_written_in_the_format_of_its_name(found, tmp_path):
    path = found.save(tmp_path / "new" / "found ü.png", scores=False)
    assert np.array_equal(np.asarray(Image.open(path)), found.plot(scores=False))
    assert Image.open(found.save(str(tmp_path / "found.jpg"))).format == "JPEG"
    for name in ("found.json", "found"):
        with pytest.raises(ValueError, match=r"is no image format; use \.jpg or \.png|no ending"):
            found.save(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_a_notebook_shows_a_picture_if_there_is_an_image(found):
    shown = np.asarray(Image.open(io.BytesIO(found._repr_png_())))
    assert np.array_equal(shown, found.plot())
    assert make()._repr_png_() is None


def test_a_large_picture_is_small_in_a_notebook():
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int)
    found = Prediction(*nothing, (900, 3200), image=np.zeros((900, 3200, 3), np.uint8))
    assert Image.open(io.BytesIO(found._repr_png_())).size == (1600, 450)


@pytest.mark.parametrize("notebook", [False, True])
def test_it_is_shown_where_it_can_be_seen(image, monkeypatch, notebook):
    shown = []
    display = ModuleType("IPython.display")
    display.display = shown.append
    shell = SimpleNamespace(kernel=1) if notebook else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(ImageShow, "show", lambda picture: shown.append("a window") or True)
    make(image).show()
    assert len(shown) == 1
    assert (shown[0] == "a window") != notebook


def test_without_a_viewer_there_is_another_way(image, monkeypatch):
    monkeypatch.setattr(ImageShow, "_viewers", [])
    with pytest.raises(ValueError, match=r"^show: this system has no image viewer; use save\(path\)$"):
        make(image).show()


def test_an_image_that_is_not_at_hand_is_told(image, tmp_path):
    with pytest.raises(ValueError, match=r"^plot: this prediction does not have its image; call plot\(image="):
        make().plot()
    with pytest.raises(ValueError, match=r"^crop: .* crop\(image=pixels\)"):
        make().crop()
    with pytest.raises(ValueError, match=r"gone\.png"):
        make(tmp_path / "gone.png").plot()
    with pytest.raises(ValueError, match=r"plot: the image is 8 x 60 .*, but this prediction is for 40 x 60"):
        make().plot(image=image[:8])


def test_crops_are_the_pixels_of_the_boxes(found, image):
    crops = found.crop()
    assert [crop.shape for crop in crops] == [(20, 20, 3), (10, 20, 3), (HEIGHT, WIDTH, 3)]
    assert np.array_equal(crops[1], image[10:20, 30:50])
    assert [crop.shape for crop in found.crop(margin=6)] == [(31, 31, 3), (22, 32, 3), (HEIGHT, WIDTH, 3)]


def test_a_box_without_size_is_a_pixel(image):
    found = make(image)
    found.boxes[0] = [60, 40, 60, 40]
    assert found.crop()[0].shape == (1, 1, 3)
    assert np.array_equal(found.crop()[0][0, 0], image[-1, -1])


def test_plain_values_survive_json(found, tmp_path):
    values = json.loads(found.to_json(tmp_path / "new" / "found.json"))
    assert values == found.to_dict() == json.loads((tmp_path / "new" / "found.json").read_text())
    assert (values["height"], values["width"]) == (HEIGHT, WIDTH)
    assert values["image"] in (None, str(found.image))
    first = values["detections"][0]
    assert (first["name"], first["label"], first["score"], first["box"]) == ("cat", 0, 0.9, BOXES[0])
    assert np.array_equal(coco_mask.decode(first["mask"]), found.mask(0))
    assert "mask" not in make(masks=False).to_dict()["detections"][0]


def test_coco_results_are_what_the_evaluator_reads():
    results = make().to_coco(7)
    assert [result["category_id"] for result in results] == [3, 9, 3]
    assert results[1] == {
        "image_id": 7,
        "category_id": 9,
        "score": 0.6,
        "bbox": [30.0, 10, 20, 10],
        "segmentation": make().rles[1],
    }
    json.dumps(results)
    assert [result["category_id"] for result in make(categories=None).to_coco(7)] == [0, 1, 0]


class Recorded:
    """Stands for a class of a package that is not installed here: it keeps its arguments."""

    def __init__(self, *given, **named):
        self.given, self.named = given, named


def stand_in(monkeypatch, package, *names):
    module = ModuleType(package)
    for name in names:
        setattr(module, name, type(name, (Recorded,), {}))
    monkeypatch.setitem(sys.modules, package, module)
    return module


def test_other_packages_get_their_own_classes(monkeypatch):
    found = make()
    pandas = stand_in(monkeypatch, "pandas", "DataFrame")
    frame = found.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    columns = frame.given[0]
    assert list(columns) == ["name", "label", "score", "x0", "y0", "x1", "y1", "area"]
    assert {len(column) for column in columns.values()} == {3}
    assert columns["area"].tolist() == [400, 200, 2400]
    supervision = stand_in(monkeypatch, "supervision", "Detections")
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.named.keys() == found.supervision().keys()
    fiftyone = stand_in(monkeypatch, "fiftyone", "Detection", "Detections")
    several = found.to_fiftyone()
    assert isinstance(several, fiftyone.Detections)
    assert [one.named["label"] for one in several.named["detections"]] == found.names


@pytest.mark.parametrize("package", ["pandas", "supervision", "fiftyone"])
def test_the_real_packages_take_it(package):
    pytest.importorskip(package)
    found = make()
    method = {"pandas": found.to_dataframe, "supervision": found.to_supervision, "fiftyone": found.to_fiftyone}[package]
    assert len(method() if package != "fiftyone" else method().detections) == 3


@pytest.mark.parametrize(
    ("method", "package"),
    [("to_dataframe", "pandas"), ("to_supervision", "supervision"), ("to_fiftyone", "fiftyone")],
)
def test_a_package_that_is_not_there_is_named_with_its_command(method, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    with pytest.raises(ModuleNotFoundError, match=f"^{method} needs {package}: pip install {package}$"):
        getattr(make(), method)()
