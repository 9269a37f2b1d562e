"""Options of an evaluation, for the command and for Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class EvaluateOptions:
    """The options of an evaluation; ``rcnn evaluate --help`` describes each one."""

    what: list[str]
    """One model, or one or more result files (.json)."""
    annotations: Path
    images: Path | None = None
    """The folder of the images; result files need none."""
    output: Path = Path("evaluation")
    iou_types: list[str] | None = None
    protocol: Literal["coco", "lvis", "voc"] = "coco"
    max_dets: int = 100
    keypoint_sigmas: list[float] | None = None
    engine: Literal["auto", "hotcoco", "pycocotools"] = "auto"
    resamplings: int = 100
    pictures: int = 12
    size: list[int] | None = None
    flip: bool = False
    short_sides: list[int] | None = None
    tile: int | None = None
    soft_nms: float | None = None
    refine: int | None = None
    batch: int = 4
    workers: int = 2
    device: str = "auto"
    trust_code: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    set_thresholds: str | None = None
    calibrate: bool = False
    name: str | None = None
    """Name of the detector in the report; its kind if None."""
    data: str | None = None
    """The data set that the annotations belong to, for the title of the report."""
    split: str = "val"
    panoptic: Path | None = None
    """A file in COCO's panoptic format, for a semantic head."""
    labels: Path | None = None
    """The folder of label PNGs, or of the PNGs of the panoptic file."""
    semantic_classes: Path | None = None
    """The classes of label PNGs."""
