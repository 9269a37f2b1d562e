"""Weights of detectron2's Panoptic FPN: every tensor and every setting; no weights lie here."""

import torch

from detection.convert.pretrained import load_pretrained
from detection.convert.zoo import find
from detection.models.build import build_detector
from detection.models.roi_linear import as_linear


def panoptic_state(detectron2_state, classes: int = 80, stuff: int = 53, depth: str = "50") -> dict[str, torch.Tensor]:
    """The state dict as detectron2 writes it, from its documented names; no two tensors have the same numbers."""
    state, number = detectron2_state(depth, classes=classes, device="cpu"), 1000.0
    for level, times in ((2, 1), (3, 1), (4, 2), (5, 3)):
        for k in range(times):
            name, number = f"sem_seg_head.p{level}.{2 * k}", number + 3
            state[f"{name}.weight"] = torch.full((128, 128 if k else 256, 3, 3), number)
            state[f"{name}.norm.weight"] = torch.full((128,), number + 1)
            state[f"{name}.norm.bias"] = torch.full((128,), number + 2)
    state["sem_seg_head.predictor.weight"] = torch.full((1 + stuff, 128, 1, 1), 7.0)
    state["sem_seg_head.predictor.bias"] = torch.arange(1.0 + stuff)
    return state


def test_every_tensor_finds_its_place(detectron2_state, tmp_path):
    state = panoptic_state(detectron2_state)
    torch.save({"model": state}, tmp_path / "panoptic.pth")
    found = load_pretrained(str(tmp_path / "panoptic.pth"))  # its origin shows in its keys
    with torch.device("meta"):
        expected = as_linear(build_detector(80, **vars(found.config)).state_dict())
    assert {k: v.shape for k, v in found.state.items()} == {k: v.shape for k, v in expected.items()}
    settings = ("cell_anchors", "pixel_mean", "pixel_std")
    assert len(found.state) == len([key for key in state if not any(part in key for part in settings)])
    pairs = {
        "levels.3.2.0.weight": "p5.4.weight",
        "levels.2.1.1.bias": "p4.2.norm.bias",
        "levels.0.0.0.weight": "p2.0.weight",
    }
    for ours, theirs in pairs.items():
        assert torch.equal(found.state[f"semantic_head.{ours}"], state[f"sem_seg_head.{theirs}"])
    assert torch.equal(found.state["semantic_head.logits.bias"], state["sem_seg_head.predictor.bias"])


def test_stuff_has_cocos_names_and_ids(detectron2_state, tmp_path):
    torch.save({"model": panoptic_state(detectron2_state)}, tmp_path / "panoptic.pth")
    model = load_pretrained(f"detectron2:{tmp_path / 'panoptic.pth'}").build()
    names, ids = model.semantic_categories.names, model.semantic_categories.ids
    assert (len(names), names[0], names[1], names[-1]) == (54, "things", "banner", "rug-merged")
    assert (ids[1], ids[-1], names[ids.index(187)]) == (92, 200, "sky-other-merged")
    config = model.semantic_head.config
    assert (config.overlap, config.stuff_area, config.score, config.loss_weight) == (0.5, 4096, 0.5, 0.5)
    assert model.categories.names[0] == "person"


def test_other_stuff_is_numbered(detectron2_state, tmp_path):
    torch.save({"model": panoptic_state(detectron2_state, 2, 3)}, tmp_path / "panoptic.pth")
    model = load_pretrained(f"detectron2:{tmp_path / 'panoptic.pth'}").build()
    assert model.semantic_categories.names == ("things", "stuff 1", "stuff 2", "stuff 3")


def test_the_zoo_has_three_of_them():
    urls = [find("detectron2", f"panoptic_fpn_{name}").url for name in ("R_50_1x", "R_50_3x", "R_101_3x")]
    assert all("/COCO-PanopticSegmentation/panoptic_fpn_R_" in url for url in urls)
