"""Every head in two processes: a training equals that of one process, and so does an evaluation.

The losses of two-stage detectors and of semantic heads are means over the samples of one device, as in detectron2. Two
devices then equal one device that takes the same images one after the other. Losses of one-stage detectors are means
over the images (RetinaNet), or over the positives of all devices. Two devices then also equal one with larger batches.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml

from detection.run_files import read_table
from detection.shapes import write_shapes
from tests.detection.engine.conftest import TINY
from tests.detection.engine.test_one_stage import HEADS
from tests.end_to_end.test_processes import last, torchrun
from tests.outcomes import different

pytestmark = pytest.mark.slow

ALIKE = """
import torch
from lightning.pytorch import Callback

class Alike(Callback):
    '''Every batch draws the same random samples, on whichever device it is.'''

    def setup(self, trainer, module, stage):
        module._generator = lambda key: torch.Generator().manual_seed(0)
"""

POINTS = {"channels": 16, "hidden": 32, "layer_channels": 16, "coarse": 4, "resolution": 8, "points": 20}
ALIGNED = {"convs": 1, "masks": True, "mask_branch": {"convs": 1, "channels": 64}}
PYRAMID = {"channels": 16, "finest": 3, "extra": "conv"}
ONE_STAGE = {"rpn": None, "box_head": None, "mask_head": None, "fpn": PYRAMID}
KINDS = {
    "boxes": {"mask_head": None},
    "masks": {},
    "cascade": {"cascade": {"mask_per_stage": True}},
    "keypoints": {"mask_head": None, "keypoint_head": {"convs": 1, "channels": 16, "resolution": 7}},
    "points": {"mask_head": None, "point_head": {**POINTS, "subdivisions": 2}},
    "semantic": {"rpn": None, "box_head": None, "mask_head": None, "semantic_head": {"channels": 16}},
    "panoptic": {"semantic_head": {"channels": 16, "stuff_area": 20}},
    "retinanet": {**ONE_STAGE, "retinanet": HEADS["retinanet"]},
    "fcos": {**ONE_STAGE, "fcos": HEADS["fcos"]},
    "task_aligned": {
        **ONE_STAGE,
        "fpn": {**PYRAMID, "channels": 32},
        "task_aligned": {**ALIGNED, "detections": 10, "score_threshold": 0.0},
    },
}
"""What differs from the settings of the engine's tests, by head."""

WAYS = [(kind, "accumulated") for kind in KINDS if kind not in ("fcos", "task_aligned")]
WAYS += [(kind, "together") for kind in ("retinanet", "fcos", "task_aligned")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images to train on and five to validate on, all of one size: a larger canvas would change group norms."""
    folder = tmp_path_factory.mktemp("heads")
    write_shapes(folder / "shapes", train=6, val=5, size=64, keypoints=True)
    (folder / "agent.py").write_text(ALIKE)
    return folder


@pytest.fixture(scope="module")
def config_of(folder):
    """Write the settings of a kind of detector; return the file."""

    def write(kind: str) -> Path:
        box_head = {**TINY["model"]["box_head"], "score_threshold": 0.0}
        model = {**TINY["model"], "box_head": box_head, **KINDS[kind]}
        model = {name: part for name, part in model.items() if part is not None or name == "mask_head"}
        data = {**TINY["data"], "root": str(folder / "shapes")}
        path = folder / f"{kind}.yaml"
        path.write_text(yaml.safe_dump({**TINY, "model": model, "data": data, "run": {"pictures": 0}}))
        return path

    return write


@pytest.fixture(scope="module")
def two_ranks(config_of, folder):
    """Train a kind of detector for three steps in two processes, once; return its folder."""

    def train(kind: str) -> Path:
        if not (folder / kind).exists():
            torchrun(config_of(kind), 2, *OPTIONS, "--run.folder", folder / kind)
        return folder / kind

    return train


OPTIONS = ("--trainer.limit_val_batches", "0", "--trainer.callbacks", '{"class_path": "agent.Alike"}')


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_a_training_of_two_ranks_equals_that_of_one(config_of, two_ranks, tmp_path, kind, way):
    accumulated = ("--trainer.accumulate_grad_batches", "2") if way == "accumulated" else ()
    torchrun(config_of(kind), 1, *OPTIONS, *accumulated, "--run.folder", tmp_path)
    two, one = last(two_ranks(kind)), last(tmp_path)
    assert two["global_step"] == one["global_step"] == 3
    for number, state in one["optimizer_states"][0]["state"].items():
        momentum, other = state["momentum_buffer"], two["optimizer_states"][0]["state"][number]["momentum_buffer"]
        assert (other - momentum).norm() <= 1e-4 * momentum.norm() + 1e-8
    assert list(two["state_dict"]) == list(one["state_dict"])
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_of_two_ranks_equals_that_of_one(config_of, two_ranks, tmp_path, kind):
    checkpoint = two_ranks(kind) / "checkpoints" / "last.ckpt"
    test = ("--data.test", '{"images": "val", "annotations": "annotations/instances_val.json"}')
    found = []
    for ranks in (1, 2):
        output = tmp_path / str(ranks)
        torchrun(config_of(kind), ranks, "--ckpt_path", checkpoint, "--run.folder", output, *test, subcommand="test")
        (numbers,) = read_table(output / "test.csv")
        files = {path.name: path.read_bytes() for path in output.glob("results_*.json")}
        found.append((files, {name: value for name, value in numbers.items() if name.startswith("test/")}))
    assert not different(*found)
    files, numbers = found[0]
    assert any("AP" in name or "mIoU" in name for name in numbers)
    assert (kind == "semantic") == (not files)
    assert all(len(json.loads(content)) > 20 for content in files.values())
