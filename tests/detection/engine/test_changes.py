"""Changed settings and files in a resumed run: messages, and errors."""

import json
import signal

import pytest
import torch

from detection.coco.annotations import load_annotations
from detection.engine.changes import changes
from detection.engine.data_ingredients import images_of
from detection.engine.module import DetectionModule
from detection.foreign import shown

OPTIONS = ("--run.folder", "run", "--run.pictures", "0", "--model.mask_head", "null", "--model.schedule.length", "2")
SAID = "Changed since the checkpoint: "


@pytest.fixture
def annotations(shapes, tmp_path):
    """The options that train on a changed copy of the annotations: annotations(change) -> options."""

    def changed(change, split="train"):
        content = json.loads((shapes / f"annotations/instances_{split}.json").read_text())
        change(content)
        path = tmp_path / f"{split}.json"
        path.write_text(json.dumps(content))
        return (f"--data.{split}", f"{{images: {split}, annotations: {path}}}")

    return changed


def move_a_box(content):
    content["annotations"][0]["bbox"][0] += 1


def number_images_anew(content):
    for image in content["images"]:
        image["id"] += 10_000
    for annotation in content["annotations"]:
        annotation["image_id"] += 10_000


def leave_out_an_image(content):
    gone = content["images"].pop()["id"]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != gone]


def reverse_the_images(content):
    content["images"].reverse()


def said(capsys):
    return [line.removeprefix(SAID) for line in capsys.readouterr().out.splitlines() if line.startswith(SAID)]


@pytest.mark.slow
def test_a_resumed_run_says_nothing_where_nothing_has_changed(run, interrupted, capsys):
    assert interrupted(signal.SIGTERM, 1, *OPTIONS) == 143
    assert run("fit", *OPTIONS, "--resume", "auto") == 0
    assert said(capsys) == []


def test_a_resumed_run_says_what_has_changed(run, interrupted, annotations, capsys):
    """Labels, sizes, augmentation and settings of the model may change; each has its line."""
    assert interrupted(signal.SIGTERM, 1, *OPTIONS) == 143
    options = ("--data.short_side", "96", "--data.flip", "0", "--model.rpn.samples", "32")
    crop = ("--data.augment", "[{class_path: albumentations.RandomGamma, init_args: {p: 0.25}}]")
    assert run("fit", *OPTIONS, "--resume", "auto", *options, *crop, *annotations(move_a_box)) == 0
    found = said(capsys)
    assert "data.train.annotations has other content, for the same images" in found
    assert {"data.short_side is [96], and was [64]", "data.flip is 0.0, and was 0.5"} < set(found)
    assert "model.rpn.samples is 32, and was 64" in found
    assert any(line.startswith("data.augment is ['RandomGamma(") and line.endswith("and was []") for line in found)
    assert len(found) == 5


@pytest.mark.slow
def test_other_images_for_validation_are_said_to_make_ap_incomparable(run, interrupted, annotations, capsys):
    assert interrupted(signal.SIGTERM, 1, *OPTIONS) == 143
    assert run("fit", *OPTIONS, "--resume", "auto", *annotations(leave_out_an_image, "val")) == 0
    assert said(capsys) == [
        "data.val has 3 images, and had 4; later APs, and the choice of the best checkpoint, do not compare with "
        "earlier ones"
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (leave_out_an_image, "data.train has 7 images, and had 8"),
        pytest.param(
            reverse_the_images,
            "data.train has other images, or the same images in another order",
            marks=pytest.mark.slow,
        ),
        (None, "seed_everything is 7, and was 0"),
    ],
)
def test_images_that_a_run_cannot_continue_with_are_rejected(
    run, interrupted, annotations, capsys, tmp_path, change, what
):
    assert interrupted(signal.SIGTERM, 1, *OPTIONS) == 143
    changed = annotations(change) if change else ("--seed_everything", "7")
    before = (tmp_path / "run/checkpoints/last.ckpt").read_bytes()
    assert run("fit", *OPTIONS, "--resume", "auto", *changed) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert what in message
    assert "--run.allow_changed_data true" in message
    assert len(message) < 300
    assert (tmp_path / "run/checkpoints/last.ckpt").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3])
def test_with_other_images_that_are_allowed_the_epoch_begins_again(
    run, interrupted, annotations, tmp_path, monkeypatch, at
):
    """Or the next one, if it had ended: each image of each epoch once, and as many steps as its images make."""
    seen = []
    step = DetectionModule.training_step

    def spy(self, batch, batch_idx):
        seen.append((self.trainer.current_epoch, batch_idx, batch.image_ids.tolist()))
        return step(self, batch, batch_idx)

    assert interrupted(signal.SIGTERM, at, *OPTIONS) == 143
    monkeypatch.setattr(DetectionModule, "training_step", spy)
    options = ("--run.allow_changed_data", "true")
    assert run("fit", *OPTIONS, "--resume", "auto", *options, *annotations(leave_out_an_image)) == 0
    epochs = [0, 1] if at == 1 else [1]
    assert [place[:2] for place in seen] == [(epoch, number) for epoch in epochs for number in range(3)]
    for epoch in epochs:
        images = [image for place in seen if place[0] == epoch for image in place[2]]
        assert len(set(images)) == len(images) == 6  # seven, of which one does not fill a step
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == at + 1 + 3 * len(epochs)
    assert run("fit", *OPTIONS, "--resume", "auto", *options, *annotations(leave_out_an_image)) == 0


def test_the_list_of_images_is_known_by_names_sizes_and_order(shapes, tmp_path):
    def of(change):
        content = json.loads((shapes / "annotations/instances_train.json").read_text())
        change(content)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(content))
        return images_of(load_annotations(path))

    whole = of(lambda content: None)
    for same in (move_a_box, number_images_anew):
        found = of(same)
        assert (found["list"], found["images"]) == (whole["list"], 8)
        assert found["annotations"] != whole["annotations"]
    assert of(leave_out_an_image)["images"] == 7
    assert of(reverse_the_images)["list"] != whole["list"]


def test_what_one_side_does_not_say_is_no_change_and_long_values_are_cut():
    assert changes({"data.flip": 0.5}, {"data.crop": None}) == {}
    assert changes({"data.flip": 0.5}, {"data.flip": 0.5}) == {}
    (text,) = changes({"data.augment": ["x" * 500]}, {"data.augment": []}).values()
    assert text == f"data.augment is [], and was {shown(['x' * 500])}"
    (text,) = changes({"data.augment": ["\x1b[2J"]}, {"data.augment": []}).values()
    assert text.isprintable()
