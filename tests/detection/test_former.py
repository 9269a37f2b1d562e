"""Former import paths: each works with a warning that names the new path, or fails with an alternative."""

import importlib
import re
import subprocess
import sys

import pytest

import detection
from detection.former import FORMER, GONE, RENAMED

USED = {
    "detection.models.folding": ["folded"],
    "detection.ops.anchor_matching": ["match_anchors"],
    "detection.ops.pasting": ["paste_masks", "encode_masks", "rounded_frames"],
    "detection.predicting.find": ["Found", "concatenate", "encoded", "find", "find_in_views", "merge"],
    "detection.predicting.options": ["check_apart", "check_least"],
    "detection.predicting.tiles": ["at_inner_border", "find_in_tiles", "merge_tiles", "starts"],
    "detection.report.command": ["_parser"],
}
"""Functions of the former modules."""

STILL = {
    "backbones": ["Backbone", "BackboneConfig", "FrozenBatchNorm2d", "available", "build", "make_norm"],
    "detection": [
        *("FasterRCNN", "MaskRCNN", "build_detector", "faster_rcnn", "load_model", "mask_rcnn"),
        *("predict", "predict_batch", "save_model"),
    ],
    "detection.data.annotations": ["load_annotations"],
    "detection.data.collate": ["collate"],
    "detection.data.dataset": ["CocoDataset"],
    "detection.data.transforms": ["Resize"],
    "detection.checkpoint": ["save_model", "load_model"],
    "detection.convert": ["from_detectron2", "from_mmdetection", "from_torchvision", "to_torchvision"],
    "detection.convert.zoo": ["find"],
    "detection.shapes": ["write_shapes"],
    "detection.structures": ["IGNORE", "RoISamples"],
}
"""What the documents of the first versions import, under its first name."""


@pytest.mark.parametrize("name", FORMER)
def test_a_former_module_is_the_new_one_with_a_warning(name):
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=f"{name} is {FORMER[name]} now"):
        old = importlib.import_module(name)
    new = importlib.import_module(FORMER[name])
    renamed = RENAMED.get(name, {})
    public = [one for one in vars(new) if not one.startswith("_") and one not in renamed]
    assert all(getattr(old, one) is getattr(new, one) for one in public)
    for former, place in renamed.items():
        module, _, attribute = place.partition(":")
        assert getattr(old, former) is getattr(importlib.import_module(module), attribute)
    assert all(callable(getattr(old, one)) for one in USED.get(name, []))
    with pytest.raises(ImportError, match="no_such_name"):
        exec(f"from {name} import no_such_name")


@pytest.mark.parametrize("name", GONE)
def test_a_module_that_is_gone_says_what_to_use_instead(name):
    with pytest.raises(ModuleNotFoundError, match=re.escape(GONE[name])):
        importlib.import_module(name)
    with pytest.raises(ModuleNotFoundError, match=r"detection\.no_such_module"):
        importlib.import_module("detection.no_such_module")


@pytest.mark.parametrize("name", STILL)
def test_public_names_stay_where_they_were(name):
    module = importlib.import_module(name)
    assert [one for one in STILL[name] if not hasattr(module, one)] == []


@pytest.mark.slow
def test_the_warning_points_to_the_line_that_imports(tmp_path):
    script = tmp_path / "old.py"
    script.write_text("import detection\nfrom detection.ops.anchor_matching import match_anchors\n")
    command = [sys.executable, "-W", "always::DeprecationWarning", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    assert f"{script}:2: DeprecationWarning: detection.ops.anchor_matching is detection.fast.matching" in found.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_former_parser_of_evaluate_reads_a_former_command_line():
    from detection.report.command import _parser

    words = ["a.ckpt", "--annotations", "a.json", "--images", "a", "--engine", "pycocotools", "--size", "480", "800"]
    options = _parser().parse_args([*words, "--workers", "0"])
    assert (options.what, options.size, options.workers) == (["a.ckpt"], [480, 800], 0)
    assert detection.__version__
