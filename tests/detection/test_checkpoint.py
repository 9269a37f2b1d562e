import errno
import os
import pickle
import stat
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from backbones import BackboneConfig
from detection import checkpoint as module
from detection.categories import Categories, Skeleton
from detection.checkpoint import load_model, load_weights, read_checkpoint, save_model, write_checkpoint
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.keypoint_head import KeypointHeadConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rpn import RPNConfig
from tests.support.detectors import make_points

CONFIGS = {
    "backbone": BackboneConfig("resnet10", norm="group", width=8),
    "fpn": FPNConfig(channels=16),
    "rpn": RPNConfig(AnchorConfig(sizes=((8, 12), (16, 24), (32, 48), (64, 96), (128, 192))), proposals_test=20),
    "box_head": BoxHeadConfig(hidden=32, score_threshold=0.0, detections=5),
    "mask_head": MaskHeadConfig(convs=1, channels=16),
}


def build(num_classes=3, **changes):
    torch.manual_seed(0)
    model = build_detector(num_classes, **{**CONFIGS, **changes}).eval()
    model.categories = Categories(("cat", "dog", "bird")[:num_classes], (2, 5, 90)[:num_classes])
    model.test_size = (64, 96)
    return model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.ckpt"
    save_model(build(), path)
    return path


@torch.no_grad()
def test_a_loaded_model_answers_as_the_saved_one(saved):
    model, info = load_model(saved)
    images, sizes = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8), torch.tensor([[60, 90]])
    for ours, theirs in zip(model(images, sizes)[:4], build()(images, sizes)[:4], strict=True):
        assert torch.equal(ours, theirs)
    assert model.categories == build().categories
    assert model.test_size == (64, 96)
    assert info["num_classes"] == 3
    assert not model.training


def people(**changes):
    """A Keypoint R-CNN of a class with three keypoints and one with none."""
    model = build(2, mask_head=None, keypoint_head=KeypointHeadConfig(keypoints=3, convs=1, channels=16), **changes)
    nose = Skeleton(("nose", "left", "right"), ((0, 1), (0, 2)))
    model.categories = Categories(("cat", "stone"), (2, 5), (nose, Skeleton()))
    return model


@torch.no_grad()
def test_keypoints_and_their_names_survive(tmp_path):
    save_model(people(), tmp_path / "people.ckpt")
    model, info = load_model(tmp_path / "people.ckpt")
    assert model.categories == people().categories
    assert info["categories"]["skeletons"][0] == {"keypoints": ["nose", "left", "right"], "skeleton": [[1, 2], [1, 3]]}
    images, sizes = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8), torch.tensor([[60, 90]])
    assert torch.equal(model(images, sizes).keypoints, people()(images, sizes).keypoints)


@torch.no_grad()
def test_a_pointrend_survives_and_a_file_cannot_ask_for_huge_masks(tmp_path):
    model, path = make_points().eval(), tmp_path / "points.ckpt"
    save_model(model, path)
    images, sizes = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8), torch.tensor([[60, 90]])
    assert torch.equal(load_model(path)[0](images, sizes).masks, model(images, sizes).masks)
    content = torch.load(path, weights_only=True)
    for name, value, message in (
        ("subdivisions", 30, "a mask of side 3 would become larger than 896 x 896"),
        ("layers", 65, "point_head.layers is 65"),
        ("oversample", 1e6, "oversample is 1000000"),
        ("importance", -1.0, "importance -1.0"),
    ):
        changed = content["rcnn"]["model"]["point_head"] | {name: value}
        parts = content["rcnn"]["model"] | {"point_head": changed}
        torch.save(content | {"rcnn": content["rcnn"] | {"model": parts}}, tmp_path / "changed.ckpt")
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / "changed.ckpt")


@pytest.mark.parametrize(
    "skeletons",
    [
        [],
        [{"keypoints": ["nose"], "skeleton": []}],
        [{"keypoints": ["nose", 1], "skeleton": []}, {"keypoints": [], "skeleton": []}],
        [{"keypoints": ["nose"], "skeleton": [[1, 2]]}, {"keypoints": [], "skeleton": []}],
        [{"keypoints": ["nose"] * 1001, "skeleton": []}, {"keypoints": [], "skeleton": []}],
        [{"names": ["nose"], "edges": []}] * 2,
        "nose",
    ],
)
def test_wrong_names_of_keypoints_are_rejected(tmp_path, skeletons):
    save_model(people(), tmp_path / "people.ckpt")
    content = torch.load(tmp_path / "people.ckpt", weights_only=True)
    content["rcnn"]["categories"]["skeletons"] = skeletons
    torch.save(content, tmp_path / "people.ckpt")
    if skeletons == []:  # as without keypoints
        assert load_model(tmp_path / "people.ckpt")[0].categories.skeletons == ()
        return
    with pytest.raises(ValueError, match=r"people\.ckpt: rcnn\.categories\.skeletons must have"):
        load_model(tmp_path / "people.ckpt")


def test_configs_survive(saved):
    _, info = load_model(saved)
    assert module.restore_configs(info, saved) == CONFIGS


def test_without_masks(tmp_path):
    save_model(build(mask_head=None), tmp_path / "faster.ckpt")
    model, info = load_model(tmp_path / "faster.ckpt")
    assert not hasattr(model, "mask_head")
    assert info["model"]["mask_head"] is None


@pytest.mark.slow
def test_settings_of_another_model_are_refused_at_saving(tmp_path):
    for configs in ({}, CONFIGS | {"mask_head": None}):
        with pytest.raises(ValueError, match=r"a\.ckpt: not written: configs are not those") as error:
            save_model(build(), tmp_path / "a.ckpt", configs)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    torch.manual_seed(0)
    save_model(build_detector(2, BackboneConfig()), tmp_path / "b.ckpt", {})  # all at its default
    load_model(tmp_path / "b.ckpt")


SLIGHTLY_OTHER = {
    "backbone": BackboneConfig("resnet10", norm="group", width=8, mean=(0.0, 0.0, 0.0)),
    "rpn": RPNConfig(AnchorConfig(sizes=((9, 12), (16, 24), (32, 48), (64, 96), (128, 192))), proposals_test=20),
    "box_head": BoxHeadConfig(hidden=32, score_threshold=0.5, detections=5),
}
"""Settings that no tensor's shape depends on."""


@pytest.mark.parametrize("part", SLIGHTLY_OTHER)
@pytest.mark.parametrize("forgotten", [False, True])
def test_settings_that_no_shape_tells_must_be_the_models_own(tmp_path, part, forgotten):
    other = {key: value for key, value in CONFIGS.items() if key != part}
    wrong = rf"a\.ckpt: not written: .* of this detector: {part} differs; leave configs out"
    with pytest.raises(ValueError, match=wrong):
        save_model(build(), tmp_path / "a.ckpt", other if forgotten else other | {part: SLIGHTLY_OTHER[part]})


def test_where_a_model_started_from_makes_no_other(tmp_path):
    save_model(build(), tmp_path / "a.ckpt", CONFIGS | {"backbone": replace(CONFIGS["backbone"], weights="imagenet")})


def test_a_detector_assembled_by_hand_needs_configs(tmp_path):
    model = build()
    model.configs = None
    with pytest.raises(ValueError, match=r"a\.ckpt: not written: .* give its configs"):
        save_model(model, tmp_path / "a.ckpt")
    save_model(model, tmp_path / "a.ckpt", CONFIGS)
    assert load_model(tmp_path / "a.ckpt")[0].configs == CONFIGS


def test_a_layer_that_was_replaced_after_building_is_refused(tmp_path):
    model = build()
    model.box_head.logits = torch.nn.Linear(32, 9)
    with pytest.raises(ValueError, match=r"a\.ckpt: not written: configs are not those of this detector: .*classes"):
        save_model(model, tmp_path / "a.ckpt")


def test_a_file_without_depth_and_resize_has_those_of_the_first_version(saved):
    content = torch.load(saved, weights_only=True)
    del content["rcnn"]["preprocessing"]["depth"], content["rcnn"]["preprocessing"]["resize"]
    torch.save(content, saved)
    model, _ = load_model(saved)
    assert (model.depth, model.resize) == (8, "opencv")


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ({"boxhead": BoxHeadConfig()}, "configs: unknown part boxhead; use backbone, fpn, rpn, box_head, mask_head"),
        ({"backbone": "resnet10"}, "configs: backbone is a str; give a BackboneConfig"),
    ],
)
def test_configs_of_no_part_are_refused(tmp_path, configs, message):
    with pytest.raises(ValueError, match=message):
        save_model(build(), tmp_path / "a.ckpt", CONFIGS | configs)


def test_what_only_wraps_a_detector_is_refused(tmp_path):
    for wrong in (torch.nn.DataParallel(build()), "a.ckpt"):
        with pytest.raises(ValueError, match=f"expected a detector .*, got {type(wrong).__name__}"):
            save_model(wrong, tmp_path / "a.ckpt")


def test_numbers_of_numpy_and_paths_are_written_as_plain_ones(tmp_path):
    sizes = tuple(tuple(np.array(pair, dtype=np.float32)) for pair in CONFIGS["rpn"].anchors.sizes)
    backbone = replace(CONFIGS["backbone"], in_channels=np.int64(3))
    model = build(rpn=RPNConfig(AnchorConfig(sizes=sizes)), backbone=backbone)
    model.configs["backbone"] = replace(backbone, weights=tmp_path / "from.pth")
    model.categories = Categories(("cat", np.str_("dog"), "bird"), tuple(np.array([2, 5, 90])))
    model.test_size = tuple(np.array([64, 96]))
    save_model(model, tmp_path / "a.ckpt")
    again, info = load_model(tmp_path / "a.ckpt")
    assert (again.categories, again.test_size) == (build().categories, (64, 96))
    assert again.configs["rpn"].anchors.sizes == CONFIGS["rpn"].anchors.sizes
    assert info["model"]["backbone"]["weights"] == str(tmp_path / "from.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_size": (torch.tensor(64), 96)}, "preprocessing.short_side holds a Tensor; give plain numbers"),
        ({"categories": Categories(("cat",), (2,))}, "categories have 1 name and 1 id, but the detector 3 classes"),
        ({"categories": ["cat", "dog", "bird"]}, "categories are a list; give detection.categories.Categories"),
    ],
)
def test_what_could_not_be_loaded_is_not_written(tmp_path, change, message):
    model = build()
    vars(model).update(change)
    with pytest.raises(ValueError, match=rf"a\.ckpt: not written: {message}"):
        save_model(model, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    model = build()
    model.box_head.logits.bias.data[0] = torch.nan
    for spoilt in (model, build().to("meta")):
        with pytest.raises(ValueError, match=r"a\.ckpt: not written: .* has NaN or Inf"):
            save_model(spoilt, tmp_path / "a.ckpt")


def test_an_incomplete_or_contradictory_description_is_told(saved):
    content = torch.load(saved, weights_only=True)
    categories = content["rcnn"]["categories"]
    content["rcnn"]["categories"] = {"names": categories["names"][:2], "ids": categories["ids"]}
    torch.save(content, saved)
    with pytest.raises(ValueError, match=r"model\.ckpt: categories have 2 names and 3 ids, but the detector 3 classes"):
        load_model(saved)
    del content["rcnn"]["preprocessing"]
    torch.save(content, saved)
    with pytest.raises(ValueError, match=r"model\.ckpt: its entry rcnn lacks preprocessing"):
        load_model(saved)


def test_weights_alone_are_told_how_to_be_saved(tmp_path):
    torch.save(build().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth: .* write the file with detection\.checkpoint\.save_model"):
        load_model(tmp_path / "weights.pth")


def test_only_tensors_and_plain_values(saved):
    content = torch.load(saved, weights_only=True)
    plain = (str, int, float, bool, type(None))

    def check(value):
        if isinstance(value, dict):
            [check(inner) for inner in value.values()]
        elif isinstance(value, list):
            [check(inner) for inner in value]
        else:
            assert type(value) in plain, value

    check(content["rcnn"])


@pytest.mark.parametrize("fails", ["save", "fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch, fails):
    before = saved.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(*{"save": (torch, "save"), "fsync": (os, "fsync"), "replace": (os, "replace")}[fails], full)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint({"state_dict": {}}, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be opened there")
def test_the_file_and_then_its_new_name_reach_the_disk(tmp_path, monkeypatch):
    """Content, name, folder, in this order: a power cut in between leaves the old file or the new one."""
    done, fsync, move = [], os.fsync, os.replace

    def fsynced(descriptor):
        found = os.fstat(descriptor)
        place = "folder" if os.path.samestat(found, os.stat(tmp_path / "new")) else f"file of {found.st_size} bytes"
        done.append(f"fsync of the {place}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsynced)
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("move"), move(old, new)))
    path = tmp_path / "new" / "a.ckpt"
    before = open_descriptors()
    write_checkpoint({"state_dict": {"weight": torch.zeros(1000)}}, path)
    assert done == [f"fsync of the file of {path.stat().st_size} bytes", "move", "fsync of the folder"]
    assert open_descriptors() == before


def open_descriptors():
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0


def test_the_folder_is_closed_when_it_cannot_reach_the_disk(saved, monkeypatch):
    fsync, before = os.fsync, open_descriptors()

    def fail_on_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError("no such call")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_on_folders)
    with pytest.raises(OSError, match="no such call"):
        write_checkpoint({"state_dict": {}}, saved)
    assert open_descriptors() == before


def test_a_save_removes_what_killed_saves_of_the_same_file_left(saved):
    left = [saved.with_name(f".model.ckpt.{pid}.partial") for pid in (1, 999_999)]
    others = [saved.with_name(name) for name in (".other.ckpt.1.partial", "model.ckpt.1.partial", ".model.ckpt.1")]
    for path in [*left, *others]:
        path.write_bytes(b"half")
    write_checkpoint({"state_dict": {}}, saved)
    assert sorted(saved.parent.iterdir()) == sorted([saved, *others])


def test_a_sweep_of_the_folder_removes_every_half_file_and_nothing_else(tmp_path):
    kept = [tmp_path / name for name in ("last.ckpt", "a.partial", ".last.ckpt.1")]
    for path in [*kept, tmp_path / ".last.ckpt.1.partial", tmp_path / ".best.ckpt.22.partial"]:
        path.touch()
    module.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@contextmanager
def small_disk():
    """No file may grow beyond 10 kB; the system answers as it does when a disk is full, with another number.

    Not longer than a save: what pytest prints may go into a file, too.
    """
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_in_a_line(saved):
    content, before = {"state_dict": {"weight": torch.zeros(10_000)}}, saved.read_bytes()
    reason = os.strerror(errno.EFBIG)
    told = f"model.ckpt: cannot be written .{reason}.; the older file is intact$"
    with pytest.raises(OSError, match=told), small_disk():
        write_checkpoint(content, saved)
    with pytest.raises(OSError, match=f"first.ckpt: cannot be written .{reason}.$"), small_disk():
        write_checkpoint(content, saved.with_name("first.ckpt"))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file"):
        write_checkpoint({"state_dict": {}}, tmp_path / "file" / "a.ckpt")


@pytest.mark.parametrize("content", [b"", b"<html>", "half"])
def test_a_broken_file_is_named(saved, content):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=r"model.ckpt: truncated, or not a checkpoint") as error:
        load_model(saved)
    assert len(str(error.value).splitlines()) == 1


def test_a_flipped_bit_is_noticed_or_does_no_harm(saved):
    whole = saved.read_bytes()
    expected = read_checkpoint(saved)["state_dict"]
    generator = np.random.default_rng(0)
    noticed = 0
    for place in generator.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(generator.integers(8))
        saved.write_bytes(bytes(damaged))
        try:
            found = read_checkpoint(saved)["state_dict"]
        except ValueError:
            noticed += 1
            continue
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert noticed > 50


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone.ckpt: no such checkpoint"):
        read_checkpoint(tmp_path / "gone.ckpt")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil()}, path, pickle_module=pickle)
    with pytest.raises(ValueError, match=r"evil.ckpt: truncated, or not a checkpoint of only tensors"):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


def test_another_tools_checkpoint_is_told_apart(tmp_path):
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"not a checkpoint of this toolkit.*--model.weights"):
        load_model(tmp_path / "other.ckpt")


def test_a_later_format_is_told(saved):
    content = torch.load(saved, weights_only=True)
    content["rcnn"]["format"] = 99
    torch.save(content, saved)
    with pytest.raises(ValueError, match="later version"):
        load_model(saved)


def test_weights_from_a_checkpoint_or_a_state_dict(saved, tmp_path):
    torch.save(build().state_dict(), tmp_path / "weights.pth")
    for path in (saved, tmp_path / "weights.pth"):
        other = build_detector(3, **CONFIGS)
        load_weights(other, path)
        assert all(
            torch.equal(a, b) for a, b in zip(other.state_dict().values(), build().state_dict().values(), strict=True)
        )


@pytest.mark.parametrize(
    ("num_classes", "changes", "message"),
    [
        (2, {}, "the detector has 3 classes, but the annotations have 2"),
        (3, {"mask_head": None}, "has unknown mask_head"),
        (3, {"fpn": FPNConfig(channels=16, norm="group")}, "lacks fpn"),
        (3, {"box_head": BoxHeadConfig(hidden=16)}, r"other shapes: box_head.*\(32.*instead of.*\(16"),
    ],
)
def test_weights_that_do_not_fit(saved, num_classes, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        load_weights(build(num_classes, **changes), saved)
    assert len(str(error.value)) < 500


def test_loading_draws_no_random_numbers(tmp_path):
    model = build_detector(2, BackboneConfig("resnet10", norm="group", width=16), FPNConfig(channels=16))
    save_model(model, tmp_path / "a.ckpt")
    torch.manual_seed(7)
    state = torch.get_rng_state()
    loaded, _ = load_model(tmp_path / "a.ckpt")
    assert torch.equal(torch.get_rng_state(), state)
    own, again = dict(model.named_buffers()) | model.state_dict(), dict(loaded.named_buffers()) | loaded.state_dict()
    assert own.keys() == again.keys()
    assert all(torch.equal(own[name], again[name]) for name in own)


@pytest.mark.parametrize(
    ("shapes", "classes"),
    [
        ({}, None),
        ({"box_head.logits.bias": (5,)}, 4),
        ({"box_head.logits.bias": (5, 1)}, None),
        ({"head.logits.bias": (6,)}, 6),
        ({"head.logits.bias": (6, 1)}, None),
        ({"head.logits.bias": (6,), "head.deltas.bias": (4,)}, 6),
        ({"head.logits.bias": (6,), "head.deltas.bias": (12,)}, 2),  # of three anchors
        ({"head.logits.bias": (6,), "head.deltas.bias": (3,)}, 6),
        ({"head.logits.bias": (6,), "head.deltas.bias": (12, 1)}, 6),
        ({"head.logits.bias": (6,), "head.deltas.bias": ()}, 6),
        ({"box_head.logits.bias": (5,), "head.logits.bias": (6,)}, 4),
        ({module.SEMANTIC: (5,)}, 5),
        ({module.SEMANTIC: (5, 1)}, None),
        ({"head.logits.bias": (6,), module.SEMANTIC: (5,)}, 6),
    ],
)
def test_weights_say_how_many_classes_they_have(shapes, classes):
    assert module.class_count({name: torch.zeros(shape) for name, shape in shapes.items()}) == classes


def layers(*names, inputs=1):
    return torch.nn.ModuleDict({name: torch.nn.Linear(inputs, 1, bias=False) for name in names})


@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_three_tensors_are_named_and_the_others_counted(number):
    few, many = layers("a"), layers("a", *"vwxyz"[:number])
    listed = ", ".join(f"{name}.weight" for name in "vwxyz"[: min(number, 3)])
    more = f" and {number - 3} more" if number > 3 else ""
    ends = f"{listed}{more}; was it trained with the same model settings?"
    for model, weights, problem in ((many, few, "lacks"), (few, many, "has unknown")):
        with pytest.raises(ValueError, match="settings") as error:
            module.check_weights(model, weights.state_dict(), "a.pth")
        assert str(error.value) == f"a.pth: {problem} {ends}"


def test_tensors_of_other_shapes_and_dtypes_are_named():
    module.check_weights(layers("a"), layers("a").half().state_dict(), "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: has other shapes: a\.weight \(1, 2\) instead of \(1, 1\); was it"):
        module.check_weights(layers("a"), layers("a", inputs=2).state_dict(), "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: has other dtypes in a\.weight; was it"):
        module.check_weights(layers("a"), {"a.weight": torch.zeros(1, 1, dtype=torch.int64)}, "a.pth")


def test_long_names_are_cut():
    with pytest.raises(ValueError, match="has unknown") as error:
        module.check_weights(layers("a"), layers("a", "x" * 200).state_dict(), "a.pth")
    assert len(str(error.value)) < 200


def test_counters_of_batch_norms_are_those_of_the_model():
    norm, frozen = torch.nn.BatchNorm2d(2), torch.nn.ParameterDict({"weight": torch.zeros(2), "bias": torch.zeros(2)})
    weights = {"weight": torch.ones(2), "bias": torch.zeros(2)}
    statistics = {"running_mean": torch.zeros(2), "running_var": torch.ones(2)}
    load_weights(norm, weights | statistics)
    load_weights(norm, weights | statistics | {"num_batches_tracked": torch.tensor(7)})
    assert norm.num_batches_tracked == 7
    load_weights(frozen, weights | {"num_batches_tracked": torch.tensor(7)})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True), (np.bool_(True), True), (np.int64(5), 5), (np.float32(0.5), 0.5), (np.str_("a"), "a"),
        (None, None),
        ((1, [2.5, "x"]), [1, [2.5, "x"]]), ({1: (2,)}, {"1": [2]}),
    ],
)  # fmt: skip
def test_plain_values(value, expected):
    found = module.plain(value)
    assert found == expected
    assert type(found) is type(expected)


def test_a_value_that_is_not_plain_is_named():
    with pytest.raises(ValueError, match=r"model\.rpn\.sizes holds a set; give plain numbers and strings"):
        module.plain({"rpn": {"sizes": [{1}]}}, "model")


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize(
    ("name", "ours"), [("box_head.logits.bias", True), ("head.logits.bias", True), ("fc.bias", False)]
)
def test_own_weights_are_known_by_their_names(prefix, name, ours):
    assert module.are_ours({prefix + name: torch.zeros(1), "x": torch.zeros(1)}) == ours
    assert not module.are_ours([prefix + name])


def test_a_reason_is_cut(tmp_path):
    from detection.checkpoint_files import _unreadable

    told = str(_unreadable("a.ckpt", ValueError("x" * 500)))
    assert told == f"a.ckpt: truncated, or not a checkpoint of only tensors and plain values ({'x' * 150})"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://host/a.ckpt", "https.*: is a URL; download the file, and give its path"),
        (".", r"\.: is a folder; use a checkpoint in it, such as .*last\.ckpt"),
        ("gone.ckpt", "gone.ckpt: no such checkpoint"),
    ],
)
def test_what_is_no_file_is_told(path, message):
    with pytest.raises(ValueError, match=message):
        module.outline_checkpoint(path)


def test_a_file_that_holds_no_mapping_is_told(tmp_path):
    torch.save([1, 2], tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt: holds a list, not a checkpoint"):
        module.outline_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("weights", [[1], {"a": 1}, None])
def test_a_state_dict_that_holds_no_tensors_is_told(saved, weights):
    info = torch.load(saved, weights_only=True)["rcnn"]
    with pytest.raises(ValueError, match=r"a\.ckpt: its state_dict is not a mapping of names to tensors; the file is"):
        module.checked_info({"rcnn": info, "state_dict": weights}, "a.ckpt")


@pytest.mark.parametrize("ending", [".safetensors", ".onnx", ".xml", ".pt2"])
def test_a_checkpoint_does_not_get_the_name_of_an_exported_file(ending, tmp_path):
    told = rf"mine\{ending}: save_model writes a checkpoint, with a name such as mine.ckpt"
    with pytest.raises(ValueError, match=told):
        save_model(build(mask_head=None), tmp_path / f"mine{ending}")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (1.0, 2.0)])  # PyTorch draws in two ways
def test_layers_that_draw_until_values_are_in_range_end_without_random_numbers(low, high, monkeypatch):
    draws = []
    where = torch.where
    monkeypatch.setattr(torch, "where", lambda *args: draws.append(1) or where(*args))
    monkeypatch.setattr(torch.Tensor, "any", lambda self, any_=torch.Tensor.any: len(draws) < 100 and any_(self))
    values = torch.full((50,), 1e9)  # what free memory may hold
    with module.NoRandomStart():
        torch.nn.init.trunc_normal_(values, a=low, b=high)
    assert len(draws) <= 2
    assert low <= values.min() <= values.max() <= high


def test_wrong_sizes_are_found_before_the_detector_takes_memory(saved, tmp_path, monkeypatch):
    content = torch.load(saved, weights_only=True)
    content["rcnn"]["num_classes"] = 100_000
    content["rcnn"]["categories"] = None
    write_checkpoint(content, tmp_path / "wrong.ckpt")
    devices = []
    build = module.build_detector
    monkeypatch.setattr(
        module, "build_detector", lambda *a, **k: devices.append(torch.empty(0).device.type) or build(*a, **k)
    )
    with pytest.raises(ValueError, match=r"wrong\.ckpt"):
        load_model(tmp_path / "wrong.ckpt")
    assert set(devices) <= {"meta"}
