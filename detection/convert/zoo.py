"""Published detectors of other toolkits: the URLs of their files and their published AP."""

import difflib
import hashlib
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from urllib.error import URLError

_D2 = "https://dl.fbaipublicfiles.com/detectron2/"
_MM = "https://download.openmmlab.com/mmdetection/v2.0/"


@dataclass(frozen=True)
class Entry:
    """A published detector."""

    url: str
    box_ap: float | None
    """Box AP on COCO val2017, in percent, as published by its authors; None if they did not publish it."""
    mask_ap: float | None = None
    keypoint_ap: float | None = None
    pq: float | None = None
    """Panoptic quality on COCO val2017, in percent."""

    @property
    def cache(self) -> Path:
        """Path of the downloaded file, in PyTorch's cache folder."""
        import torch  # not for the names alone

        folder, name = self.url.split("/")[-2:]
        # Most files of detectron2 have the name model_final_*.pkl, so the number of the run goes into the name.
        return Path(torch.hub.get_dir()) / "checkpoints" / (f"detectron2_{folder}_{name}" if _D2 in self.url else name)


def _detectron2(path: str, box_ap: float, mask_ap: float | None = None) -> Entry:
    folder = "COCO-Detection" if mask_ap is None else "COCO-InstanceSegmentation"
    return Entry(f"{_D2}{'Misc' if path.startswith('cascade') else folder}/{path}", box_ap, mask_ap)


def _keypoints(path: str, box_ap: float, keypoint_ap: float) -> Entry:
    return Entry(f"{_D2}COCO-Keypoints/{path}", box_ap, keypoint_ap=keypoint_ap)


def _panoptic(path: str, box_ap: float, mask_ap: float, pq: float) -> Entry:
    return Entry(f"{_D2}COCO-PanopticSegmentation/{path}", box_ap, mask_ap, pq=pq)


def _pointrend(path: str, mask_ap: float) -> Entry:
    return Entry(f"{_D2}PointRend/InstanceSegmentation/{path}", None, mask_ap)


def _mmdetection(path: str, box_ap: float, mask_ap: float | None = None) -> Entry:
    kind = path.split("_")[0]  # faster, mask or cascade
    return Entry(f"{_MM}{kind}_rcnn/{path}", box_ap, mask_ap)


def _cascade(name: str, file: str, box_ap: float, mask_ap: float | None = None) -> Entry:
    return _mmdetection(f"{name}_coco/{name}_coco_{file}.pth", box_ap, mask_ap)


DETECTRON2 = {
    "faster_rcnn_R_50_FPN_1x": _detectron2("faster_rcnn_R_50_FPN_1x/137257794/model_final_b275ba.pkl", 37.9),
    "faster_rcnn_R_50_FPN_3x": _detectron2("faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl", 40.2),
    "faster_rcnn_R_101_FPN_3x": _detectron2("faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl", 42.0),
    "faster_rcnn_X_101_32x8d_FPN_3x": _detectron2(
        "faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl", 43.0
    ),
    "mask_rcnn_R_50_FPN_1x": _detectron2("mask_rcnn_R_50_FPN_1x/137260431/model_final_a54504.pkl", 38.6, 35.2),
    "mask_rcnn_R_50_FPN_3x": _detectron2("mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl", 41.0, 37.2),
    "mask_rcnn_R_101_FPN_3x": _detectron2("mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl", 42.9, 38.6),
    "mask_rcnn_X_101_32x8d_FPN_3x": _detectron2(
        "mask_rcnn_X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl", 44.3, 39.5
    ),
    "cascade_mask_rcnn_R_50_FPN_1x": _detectron2(
        "cascade_mask_rcnn_R_50_FPN_1x/138602847/model_final_e9d89b.pkl", 42.1, 36.4
    ),
    "cascade_mask_rcnn_R_50_FPN_3x": _detectron2(
        "cascade_mask_rcnn_R_50_FPN_3x/144998488/model_final_480dd8.pkl", 44.3, 38.5
    ),
    "keypoint_rcnn_R_50_FPN_1x": _keypoints("keypoint_rcnn_R_50_FPN_1x/137261548/model_final_04e291.pkl", 53.6, 64.0),
    "keypoint_rcnn_R_50_FPN_3x": _keypoints("keypoint_rcnn_R_50_FPN_3x/137849621/model_final_a6e10b.pkl", 55.4, 65.5),
    "keypoint_rcnn_R_101_FPN_3x": _keypoints("keypoint_rcnn_R_101_FPN_3x/138363331/model_final_997cc7.pkl", 56.4, 66.1),
    "keypoint_rcnn_X_101_32x8d_FPN_3x": _keypoints(
        "keypoint_rcnn_X_101_32x8d_FPN_3x/139686956/model_final_5ad38f.pkl", 57.3, 66.0
    ),
    "panoptic_fpn_R_50_1x": _panoptic("panoptic_fpn_R_50_1x/139514544/model_final_dbfeb4.pkl", 37.6, 34.7, 39.4),
    "panoptic_fpn_R_50_3x": _panoptic("panoptic_fpn_R_50_3x/139514569/model_final_c10459.pkl", 40.0, 36.5, 41.5),
    "panoptic_fpn_R_101_3x": _panoptic("panoptic_fpn_R_101_3x/139514519/model_final_cafdb1.pkl", 42.4, 38.5, 43.0),
    "pointrend_rcnn_R_50_FPN_1x_coco": _pointrend(
        "pointrend_rcnn_R_50_FPN_1x_coco/164254221/model_final_736f5a.pkl", 36.2
    ),
    "pointrend_rcnn_R_50_FPN_3x_coco": _pointrend(
        "pointrend_rcnn_R_50_FPN_3x_coco/164955410/model_final_edd263.pkl", 38.3
    ),
    "pointrend_rcnn_R_101_FPN_3x_coco": _pointrend(
        "pointrend_rcnn_R_101_FPN_3x_coco/28119983/model_final_3f4d2a.pkl", 40.1
    ),
    "pointrend_rcnn_X_101_32x8d_FPN_3x_coco": _pointrend(
        "pointrend_rcnn_X_101_32x8d_FPN_3x_coco/28119989/model_final_ba17b9.pkl", 41.1
    ),
    "retinanet_R_50_FPN_1x": _detectron2("retinanet_R_50_FPN_1x/190397773/model_final_bfca0b.pkl", 37.4),
    "retinanet_R_50_FPN_3x": _detectron2("retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl", 38.7),
    "retinanet_R_101_FPN_3x": _detectron2("retinanet_R_101_FPN_3x/190397697/model_final_971ab9.pkl", 40.4),
}
"""detectron2's detectors: those of its ``MODEL_ZOO.md``, and PointRend from the README of that project."""

MMDETECTION = {
    entry.url.split("/")[-2]: entry
    for entry in [
        _mmdetection("faster_rcnn_r50_fpn_1x_coco/faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth", 37.4),
        _mmdetection(
            "faster_rcnn_r50_fpn_2x_coco/faster_rcnn_r50_fpn_2x_coco_bbox_mAP-0.384_20200504_210434-a5d8aa15.pth", 38.4
        ),
        _mmdetection(
            "faster_rcnn_r50_fpn_mstrain_3x_coco/faster_rcnn_r50_fpn_mstrain_3x_coco_20210524_110822-e10bd31c.pth", 40.3
        ),
        _mmdetection("faster_rcnn_r101_fpn_1x_coco/faster_rcnn_r101_fpn_1x_coco_20200130-f513f705.pth", 39.4),
        _mmdetection(
            "faster_rcnn_r101_fpn_mstrain_3x_coco/faster_rcnn_r101_fpn_mstrain_3x_coco_20210524_110822-4d4d2ca8.pth",
            41.8,
        ),
        _mmdetection(
            "faster_rcnn_r50_caffe_fpn_1x_coco/"
            "faster_rcnn_r50_caffe_fpn_1x_coco_bbox_mAP-0.378_20200504_180032-c5925ee5.pth",
            37.8,
        ),
        _mmdetection(
            "faster_rcnn_r50_caffe_fpn_mstrain_3x_coco/"
            "faster_rcnn_r50_caffe_fpn_mstrain_3x_coco_20210526_095054-1f77628b.pth",
            39.9,
        ),
        _mmdetection(
            "faster_rcnn_r101_caffe_fpn_1x_coco/"
            "faster_rcnn_r101_caffe_fpn_1x_coco_bbox_mAP-0.398_20200504_180057-b269e9dd.pth",
            39.8,
        ),
        _mmdetection("mask_rcnn_r50_fpn_1x_coco/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth", 38.2, 34.7),
        _mmdetection(
            "mask_rcnn_r50_fpn_2x_coco/"
            "mask_rcnn_r50_fpn_2x_coco_bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40.pth",
            39.2,
            35.4,
        ),
        _mmdetection(
            "mask_rcnn_r50_fpn_mstrain-poly_3x_coco/"
            "mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth",
            40.9,
            37.1,
        ),
        _mmdetection("mask_rcnn_r101_fpn_1x_coco/mask_rcnn_r101_fpn_1x_coco_20200204-1efe0ed5.pth", 40.0, 36.1),
        _mmdetection(
            "mask_rcnn_r101_fpn_mstrain-poly_3x_coco/"
            "mask_rcnn_r101_fpn_mstrain-poly_3x_coco_20210524_200244-5675c317.pth",
            42.7,
            38.5,
        ),
        _mmdetection(
            "mask_rcnn_r50_caffe_fpn_1x_coco/"
            "mask_rcnn_r50_caffe_fpn_1x_coco_bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859.pth",
            38.0,
            34.4,
        ),
        _mmdetection(
            "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco/"
            "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco_bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00.pth",
            40.8,
            37.0,
        ),
        _mmdetection(
            "mask_rcnn_r101_caffe_fpn_1x_coco/mask_rcnn_r101_caffe_fpn_1x_coco_20200601_095758-805e06c1.pth", 40.4, 36.4
        ),
        _cascade("cascade_rcnn_r50_fpn_1x", "20200316-3dc56deb", 40.3),
        _cascade("cascade_rcnn_r50_fpn_20e", "bbox_mAP-0.41_20200504_175131-e9872a90", 41.0),
        _cascade("cascade_rcnn_r101_fpn_1x", "20200317-0b6a2fbf", 42.0),
        _cascade("cascade_rcnn_r101_fpn_20e", "bbox_mAP-0.425_20200504_231812-5057dcc5", 42.5),
        _cascade("cascade_rcnn_r50_caffe_fpn_1x", "bbox_mAP-0.404_20200504_174853-b857be87", 40.4),
        _cascade("cascade_rcnn_r101_caffe_fpn_1x", "bbox_mAP-0.423_20200504_175649-cab8dbd5", 42.3),
        _cascade("cascade_mask_rcnn_r50_fpn_1x", "20200203-9d4dcb24", 41.2, 35.9),
        _cascade(
            "cascade_mask_rcnn_r50_fpn_20e", "bbox_mAP-0.419__segm_mAP-0.365_20200504_174711-4af8e66e", 41.9, 36.5
        ),
        _cascade("cascade_mask_rcnn_r50_fpn_mstrain_3x", "20210628_164719-5bdc3824", 44.3, 38.5),
        _cascade("cascade_mask_rcnn_r101_fpn_1x", "20200203-befdf6ee", 42.9, 37.3),
        _cascade(
            "cascade_mask_rcnn_r101_fpn_20e", "bbox_mAP-0.434__segm_mAP-0.378_20200504_174836-005947da", 43.4, 37.8
        ),
        _cascade("cascade_mask_rcnn_r101_fpn_mstrain_3x", "20210628_165236-51a2d363", 45.5, 39.6),
        _cascade(
            "cascade_mask_rcnn_r50_caffe_fpn_1x", "bbox_mAP-0.412__segm_mAP-0.36_20200504_174659-5004b251", 41.2, 36.0
        ),
        _cascade("cascade_mask_rcnn_r50_caffe_fpn_mstrain_3x", "20210707_002651-6e29b3a6", 44.0, 38.1),
        _cascade(
            "cascade_mask_rcnn_r101_caffe_fpn_1x", "bbox_mAP-0.432__segm_mAP-0.376_20200504_174813-5c1e9599", 43.2, 37.6
        ),
        _cascade("cascade_mask_rcnn_r101_caffe_fpn_mstrain_3x", "20210707_002620-a5bd2389", 45.4, 39.5),
    ]
}
"""R-50 and R-101 with FPN in pytorch and caffe styles, from mmdetection's ``metafile.yml``."""


def _torchvision(file: str, box_ap: float, mask_ap: float | None = None) -> Entry:
    return Entry(f"https://download.pytorch.org/models/{file}", box_ap, mask_ap)


TORCHVISION = {
    "fasterrcnn_resnet50_fpn": _torchvision("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 37.0),
    "fasterrcnn_resnet50_fpn_v2": _torchvision("fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 46.7),
    "fasterrcnn_mobilenet_v3_large_fpn": _torchvision("fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth", 32.8),
    "fasterrcnn_mobilenet_v3_large_320_fpn": _torchvision("fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", 22.8),
    "maskrcnn_resnet50_fpn": _torchvision("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 37.9, 34.6),
    "maskrcnn_resnet50_fpn_v2": _torchvision("maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", 47.4, 41.8),
    "keypointrcnn_resnet50_fpn": Entry(
        "https://download.pytorch.org/models/keypointrcnn_resnet50_fpn_coco-fc266e95.pth", 54.6, keypoint_ap=65.0
    ),
    "retinanet_resnet50_fpn": _torchvision("retinanet_resnet50_fpn_coco-eeacb38b.pth", 36.4),
    "retinanet_resnet50_fpn_v2": _torchvision("retinanet_resnet50_fpn_v2_coco-5905b1c5.pth", 41.5),
    "fcos_resnet50_fpn": _torchvision("fcos_resnet50_fpn_coco-99b0c9b7.pth", 39.2),
}
"""torchvision's detectors, with the values of its enums of weights, whose import is slower than that of PyTorch."""

ZOO = {"torchvision": TORCHVISION, "detectron2": DETECTRON2, "mmdetection": MMDETECTION}


def list_models(pattern: str = "*") -> list[str]:
    """List the published detectors that :func:`detection.load_model` downloads.

    Args:
        pattern: a pattern with ``*`` and ``?`` for the complete reference, or for the name after the colon.

    Returns:
        References such as ``torchvision:maskrcnn_resnet50_fpn_v2``.

    Example:
        >>> list_models("maskrcnn_*_v2")
        ['torchvision:maskrcnn_resnet50_fpn_v2']
    """
    return [
        f"{origin}:{name}"
        for origin, entries in ZOO.items()
        for name in entries
        if fnmatch(name, pattern) or fnmatch(f"{origin}:{name}", pattern)
    ]


def find(origin: str, name: str) -> Entry:
    """Return an entry of a zoo.

    Raises:
        ValueError: the name is unknown; the message suggests a similar one.
    """
    entries = ZOO[origin]
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1, cutoff=0.3) or list(entries)
        raise ValueError(
            f"weights: {origin} has no model {name}; did you mean {origin}:{near[0]}? You can also give a file"
        )
    return entries[name]


def hint(name: str) -> None:
    """Suggest the complete reference for a name without an origin; do nothing for other names.

    Raises:
        ValueError: a zoo has this name, or a similar one.
    """
    known = {entry: f"{origin}:{entry}" for origin, entries in ZOO.items() for entry in entries}
    near = [name] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=0.85)
    if near:
        raise ValueError(f"weights: file {name} does not exist; did you mean {known[near[0]]}?")


def fetch(entry: Entry) -> Path:
    """Return the path of an entry's file; download it and check its checksum, if it is not in the cache.

    Raises:
        ValueError: the download failed, or the file is not the published one. The message names the URL and the path.
    """
    import torch

    path = entry.cache
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        torch.hub.download_url_to_file(entry.url, str(partial))
        check(partial, entry.url)
        os.replace(partial, path)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"weights: the download of {entry.url} failed ({error}); download it elsewhere and put it at {path}"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def check(path: Path, url: str) -> None:
    """Compare a file with the checksum in its published name: MD5 for detectron2, SHA-256 for the others.

    Raises:
        OSError: the checksum differs.
    """
    expected = re.search(r"[-_]([0-9a-f]{6,8})\.(?:pkl|pth)$", url)
    if expected is None:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5" if url.startswith(_D2) else "sha256").hexdigest()
    if not found.startswith(expected[1]):
        raise OSError(f"its checksum is {found[:8]} instead of {expected[1]}")
