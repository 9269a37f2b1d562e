"""Load an exported file as a detector: predict, evaluate and benchmark use it like a checkpoint.

The detector has the class and settings of the original, but no layers: an engine computes the detections.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from detection.checkpoint_schema import check_info, restore_categories, restore_configs, restore_thresholds
from detection.documents import read_json
from detection.export.runtime import SESSIONS, Session, open_session
from detection.models.cascade import CascadeMaskRCNN, CascadeRCNN
from detection.models.detector import Detector
from detection.models.fcos import FCOSHead
from detection.models.keypoint_head import KeypointRCNN
from detection.models.one_stage import OneStage
from detection.models.panoptic import PanopticFPN, SemanticFPN, semantic_categories
from detection.models.point_head import PointRend
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.models.retinanet import RetinaNetHead
from detection.models.task_aligned import TaskAlignedHead
from detection.ops.selection import select_by
from detection.structures import IGNORE, Detections

ENDINGS = tuple(SESSIONS)
"""Of files that this module loads."""
MODELS = tuple(f"model{ending}" for ending in ENDINGS)
"""Names of the file in the folder of an export."""
KINDS = {"retinanet": RetinaNetHead.kind, "fcos": FCOSHead.kind, "task_aligned": TaskAlignedHead.kind}
"""The kind of each one-stage detector, by the name of its part."""
FULL = "full_masks"
"""Name of the masks of whole canvases."""
REGION_HEADS = ("mask_head", "point_head", "keypoint_head")
"""Heads that add to the detections of a two-stage detector."""
SELECTION = ("score_threshold", "nms_threshold", "nms_across_classes", "soft_sigma", "detections")
"""Settings of the last NMS, which can change if the file does not contain it."""
FIXED = "the settings of an exported model are fixed; change those of the checkpoint, and export it again"


class Head:
    """Settings of a head that an engine computes; an assignment of other settings raises a ValueError.

    Attributes:
        free: names of settings that can change.
    """

    def __init__(self, config: Any, num_classes: int, kind: str | None = None) -> None:
        self._config, self.num_classes, self.kind = config, num_classes, kind
        self.free: tuple[str, ...] = ()

    @property
    def config(self) -> Any:
        """The settings."""
        return self._config

    @config.setter
    def config(self, value: Any) -> None:
        if replace(value, **{name: getattr(self._config, name) for name in self.free}) != self._config:
            raise ValueError(FIXED)
        self._config = value


class Exported(Detector):
    """A detector that an engine computes.

    Args:
        session: the loaded file.
        info: its checked ``rcnn`` entry, as of a checkpoint.
        configs: those of its parts.
        path: the file.
    """

    def __init__(self, session: Session, info: dict[str, Any], configs: dict[str, Any], path: Path) -> None:
        nn.Module.__init__(self)
        self.path = path
        self.session, self.configs = session, configs
        preprocessing = info["preprocessing"]
        self._test_size = (preprocessing["short_side"], preprocessing["long_side"])
        about = session.metadata["export"]
        self.inside = about.get("preprocess") == "inside"
        self.resize = preprocessing.get("resize", "opencv")
        if self.inside:
            self.resize = "inside"  # type: ignore[assignment]  # no method of the toolkit
        self.depth = preprocessing.get("depth", 8)
        self.categories = restore_categories(info)
        self.thresholds = restore_thresholds(info)
        self.stride = 1 if self.inside else about["stride"]
        self.nms = about.get("nms", "inside")
        self.full = about.get("masks") == "full"
        self.outputs = self._checked(about.get("outputs"))
        # Only its length counts.
        self.register_buffer("pixel_mean", torch.zeros(about["channels"], 1, 1), persistent=False)
        self._heads = {self.last: _last_head(configs, info["num_classes"])}
        self._heads[self.last].free = SELECTION if self.nms == "outside" else ()
        for name in REGION_HEADS:
            if configs.get(name) is not None:
                self._heads[name] = Head(configs[name], info["num_classes"])
        if (semantic := configs.get("semantic_head")) is not None and self.last != "semantic_head":
            self._heads["semantic_head"] = Head(semantic, len(semantic_categories(semantic)))
        self.eval()

    @property  # type: ignore[override]
    def test_size(self) -> tuple[int, int]:
        """Shorter side, and limit of the longer side, of images; only a file that does not resize takes another one."""
        return self._test_size

    @test_size.setter
    def test_size(self, size: tuple[int, int]) -> None:
        if self.inside and tuple(size) != self._test_size:
            raise ValueError(f"size: this exported file resizes images itself, to {self._test_size}; leave it out")
        self._test_size = size

    @property
    def last_head(self) -> Any:
        """The settings of the head that scores the detections."""
        return self._heads[self.last]

    def __getattr__(self, name: str) -> Any:
        heads = self.__dict__.get("_heads", {})
        return heads[name] if name in heads else super().__getattr__(name)

    def forward(self, images: Tensor, sizes: Tensor, features: list[Tensor] | None = None) -> Detections:
        """Return detections in canvas pixels."""
        return self.with_full_masks(images, sizes)[0]

    def with_full_masks(self, images: Tensor, sizes: Tensor) -> tuple[Detections, Tensor | None]:
        """Return detections in canvas pixels, and the masks (B, D, H, W) of the whole canvas, if the file has them."""
        if torch.is_autocast_enabled("cpu"):
            raise ValueError("an exported model computes in the precision of its file; leave --precision out")
        self.check_shape(images)
        if self.inside:
            if (sizes != sizes.new_tensor(images.shape[2:])).any():
                raise ValueError("this exported file resizes images itself; a batch needs images of one size")
            arrays = self.session.run(images.permute(0, 2, 3, 1).contiguous().numpy())
        else:
            arrays = self.session.run(images.contiguous().numpy(), sizes.numpy())
        found = [torch.from_numpy(x) for x in arrays]
        names = self.outputs or (*Detections._fields[: len(found) - self.full], *([FULL] if self.full else []))
        if len(found) != len(names):
            raise ValueError(f"{self.path}: does not return {', '.join(names)} alone; export it again")
        if self.nms == "outside":
            return Detections(*select_by(self.last_head.config, found[0], found[1])[:3]), None
        values = dict(zip(names, found, strict=True))
        full = values.pop(FULL, None)
        if isinstance(self, SemanticFPN):
            none = torch.zeros(len(images), 0)
            values |= {"boxes": none[..., None].expand(-1, -1, 4), "scores": none, "labels": none.long() + IGNORE}
        return Detections(**values), full

    def _checked(self, names: Any) -> tuple[str, ...]:
        """Return the names of the values that a file returns; earlier files do not name them.

        Raises:
            ValueError: they are not those of this detector.
        """
        needed = ("semantic",) if isinstance(self, SemanticFPN) else ("boxes", "scores")
        if names is None:
            return needed if isinstance(self, SemanticFPN) else ()
        known = isinstance(names, list) and all(one in (*Detections._fields, FULL) for one in names)
        if not known or len(set(names)) < len(names) or tuple(names[: len(needed)]) != needed:
            raise ValueError(f"{self.path}: its metadata is damaged; export it again")
        return tuple(names)

    def features(self, images: Tensor, sizes: Tensor) -> NoReturn:
        raise ValueError("an exported model returns detections alone; load the checkpoint for its features")

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if fn(torch.zeros(1)).device.type != "cpu":
            raise ValueError("an exported model runs on the CPU here; use --device cpu")
        return self

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise ValueError("an exported model computes in the precision of its file; leave --precision out")


class ExportedFasterRCNN(Exported, FasterRCNN):
    """A Faster R-CNN that an engine computes."""


class ExportedMaskRCNN(Exported, MaskRCNN):
    """A Mask R-CNN that an engine computes."""


class ExportedCascadeRCNN(Exported, CascadeRCNN):
    """A Cascade R-CNN that an engine computes."""


class ExportedCascadeMaskRCNN(Exported, CascadeMaskRCNN):
    """A Cascade Mask R-CNN that an engine computes."""


class ExportedKeypointRCNN(Exported, KeypointRCNN):
    """A Keypoint R-CNN that an engine computes."""


class ExportedPointRend(Exported, PointRend):
    """A PointRend that an engine computes."""


class ExportedSemanticFPN(Exported, SemanticFPN):
    """A Semantic FPN that an engine computes."""


class ExportedPanopticFPN(Exported, PanopticFPN):
    """A Panoptic FPN that an engine computes."""


class ExportedOneStage(Exported, OneStage):
    """A one-stage detector that an engine computes."""


def is_exported(source: str | Path) -> bool:
    """Return whether a source is an exported file, or the folder of an export."""
    path = Path(source)
    return path.suffix in ENDINGS or (path.is_dir() and (path / "model.json").is_file())


def load_exported(source: str | Path, unchecked: bool = False, trust_code: bool = False) -> Exported:
    """Load an exported file as a detector.

    Args:
        source: the file, or the folder of the export.
        unchecked: also load a file that did not pass its parity gate, or has none.
        trust_code: also load a program of ``torch.export``, whose file can run code.

    Raises:
        ValueError: the file does not exist, is damaged, or is no export of this toolkit. Or it did not pass its gate.
        ModuleNotFoundError: the engine is not installed.
    """
    return of_session(*open_exported(source, unchecked, trust_code))


def open_exported(source: str | Path, unchecked: bool = False, trust_code: bool = False) -> tuple[Session, Path]:
    """Open an exported file with its engine, and return both; arguments and errors as for :func:`load_exported`."""
    path = _file_of(Path(source))
    if path.suffix == ".pt2" and not trust_code:
        raise ValueError(
            f"{path}: a file of torch.export can run code; if you trust it, pass --trust-code, or trust_code=True"
        )
    if not unchecked:
        check_unchanged(path)
    session = open_session(path, torch.get_num_threads())
    if not unchecked:
        check_gate(session, path)
    return session, path


def of_session(session: Session, path: Path) -> Exported:
    """Return the detector of a loaded file.

    Raises:
        ValueError: the file is no export of this toolkit.
    """
    info, export = session.metadata.get("rcnn"), session.metadata.get("export")
    sides = [export.get(name) for name in ("stride", "channels")] if isinstance(export, dict) else [None]
    if not all(isinstance(side, int) and 0 < side <= 4096 for side in sides):
        if isinstance(info, Mapping) and "classifier" in info:
            raise ValueError(f"{path}: is an image classifier, and a detector is needed")
        raise ValueError(f"{path}: is no export of this toolkit; write one with rcnn export")
    check_info(info, path)
    assert isinstance(info, dict)
    name = info["model"]["backbone"]["name"]
    configs = restore_configs(info, path, trust_code=name)  # settings only: no code of a custom backbone runs
    return _class_of(configs)(session, info, configs, path)


def check_gate(session: Session, path: Path) -> None:
    """Check that a file passed its parity gate.

    Raises:
        ValueError: it did not, or has none.
    """
    gate = session.metadata.get("gate")
    if not isinstance(gate, dict):
        raise ValueError(f"{path}: has no parity gate; write it with rcnn export, or pass unchecked=True")
    if gate.get("passed") is not True:
        raise ValueError(
            f"{path}: its results differ from those of the checkpoint, see card.md beside it; "
            "export again, or pass unchecked=True"
        )


def check_unchanged(path: Path) -> None:
    """Check an exported file, and those that belong to it, against the checksums in ``model.json``, if there is one.

    Raises:
        ValueError: the file changed after its gate.
    """
    beside = path.with_name("model.json")
    if not beside.is_file() or not path.is_file():
        return
    listed = read_json(beside)
    files = listed.get("files") if isinstance(listed, dict) else None
    if not isinstance(files, dict) or path.name not in files:
        return  # the folder of another program
    for name, known in files.items():
        one = path.with_name(Path(name).name)
        if not one.is_file() or known != checksum_of(one):
            raise ValueError(f"{one}: differs from the file that was compared; export again, or pass unchecked=True")


def checksum_of_weights(model: nn.Module) -> str:
    """Return the SHA-256 of all weights and their names."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def checksum_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_of(source: Path) -> Path:
    path = source
    if source.is_dir():
        path = next((source / name for name in MODELS if (source / name).is_file()), source / MODELS[0])
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give an exported file, or the folder of an export")
    return path


def _class_of(configs: Mapping[str, Any]) -> type[Exported]:
    """Return the class for a detector with these settings."""
    if _dense(configs):
        return ExportedOneStage
    if configs.get("semantic_head"):
        return ExportedPanopticFPN if configs.get("mask_head") else ExportedSemanticFPN
    if configs.get("keypoint_head") or configs.get("point_head"):
        return ExportedKeypointRCNN if configs.get("keypoint_head") else ExportedPointRend
    if configs.get("cascade"):
        return ExportedCascadeMaskRCNN if configs.get("mask_head") else ExportedCascadeRCNN
    return ExportedMaskRCNN if configs.get("mask_head") else ExportedFasterRCNN


def _last_head(configs: Mapping[str, Any], num_classes: int) -> Head:
    """Return the settings of the head that scores the detections."""
    if name := _dense(configs):
        return Head(configs[name], num_classes, KINDS[name])
    if (semantic := configs.get("semantic_head")) is not None and configs.get("mask_head") is None:
        return Head(semantic, num_classes)
    config = configs["box_head"]
    return Head(configs["cascade"].of_stages(config)[-1] if configs.get("cascade") else config, num_classes)


def _dense(configs: Mapping[str, Any]) -> str | None:
    """Return the name of a one-stage detector's part; None for a detector of two stages."""
    return next((name for name in KINDS if configs.get(name) is not None), None)
