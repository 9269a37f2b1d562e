"""Which settings of the data follow from those of the model: a mask head needs masks, six channels need them read."""

from typing import Any

from detection.models.mask_forms import is_set, predicts_masks, wanted_maps


def link_data_to_model(parser: Any) -> None:
    """Make a parser of ``model`` and ``data`` set the data's masks, keypoints, maps and channels by the model."""
    parser.link_arguments("model.backbone.in_channels", "data.channels")
    masks = ("model.mask_head", "model.task_aligned", "model.point_head")
    parser.link_arguments(masks, "data.masks", compute_fn=predicts_masks)
    parser.link_arguments("model.keypoint_head", "data.keypoints", compute_fn=is_set)
    parser.link_arguments(("model.semantic_head", "model.mask_head"), "data.maps", compute_fn=wanted_maps)
