"""Open any common data set as COCO: detect its format, find its splits, and convert it if necessary.

The original files never change. Converted and split annotations go into a cache; see :mod:`detection.formats.kept`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.data.signatures import SUFFIXES
from detection.foreign import shown
from detection.formats.coco_layout import ANNOTATIONS, CocoFile, coco_files, coco_parts, in_coco_form, shared_images
from detection.formats.kept import default_cache, fingerprint, kept, write_json
from detection.formats.layout import SPLITS, Found, Part, Unread, files_in, folders_in
from detection.formats.set_aside import with_validation
from detection.formats.split_folder import SPLIT_FILE, read_split
from detection.formats.voc_layout import voc_sign, voc_splits
from detection.formats.yolo_layout import yolo_sign, yolo_splits
from detection.home import with_home
from detection.wording import plural

KNOWN = (
    "COCO (annotations/instances_train.json and train/), YOLO (data.yaml, or images/, labels/ and classes.txt), or VOC "
    "(Annotations/ and JPEGImages/)"
)
_DATA = {"COCO": "COCO annotations", "YOLO": "YOLO labels", "VOC": "VOC annotations"}
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True)
class DataSet:
    """A data set in COCO's format, original or converted."""

    form: str
    """Format of the original data: ``COCO``, ``YOLO`` or ``VOC``."""
    parts: dict[str, Part]
    """The existing splits among ``train``, ``val`` and ``test``."""
    lines: list[str]
    """Lines to show to the user: what the toolkit found, converted, left out and split."""


def open_data(
    path: str | Path,
    *,
    need: Sequence[str] = ("train", "val"),
    val_fraction: float = 0.2,
    seed: int = 0,
    cache: Path | None = None,
) -> DataSet:
    """Open a data set in the format of COCO, YOLO or VOC.

    If you need validation images and the data set has none, the function uses a fraction of the training images for
    validation. The same data, fraction and seed always give the same images.

    Args:
        path: a folder, a ``data.yaml``, or a COCO annotation file.
        need: splits that must exist.
        val_fraction: fraction of the training images to use for validation.
        seed: seed of this choice.
        cache: folder for converted and split files; None uses :func:`detection.formats.kept.default_cache`.

    Returns:
        The data set with the paths of its images and annotation files.

    Raises:
        ValueError: the format is unknown or ambiguous, a needed split is missing, or a split cannot be read.
        OSError: the cache cannot be written.

    Example:
        >>> data = open_data("my_data")  # doctest: +SKIP
        >>> print(*data.lines, sep="\\n")  # doctest: +SKIP
        >>> data.parts["train"].annotations  # doctest: +SKIP
    """
    place = Path(with_home(path)).absolute()
    cache = default_cache() if cache is None else Path(with_home(cache)).absolute()
    try:
        found = _found(place, cache)
        _check_needed(found, place, need)
        if "val" in need and "val" not in found.parts:
            with_validation(found, place, val_fraction, seed, cache)
    except ValueError as error:
        raise ValueError(shown(error, None)) from error  # names of files may contain control characters
    found.lines += shared_images(found.parts)
    lines = [f"{found.form} data set: {place}", *(f"  {line}" for line in found.lines)]
    lines += [f"  {split} is left out: {error}" for split, error in found.failed.items()]
    parts = {split: found.parts[split] for split in SPLITS if split in found.parts}
    return DataSet(found.form, parts, [shown(line, None) for line in lines])


def _check_needed(found: Found, path: Path, need: Sequence[str]) -> None:
    """Check that the needed splits exist; training images can replace a missing ``val``."""
    if not found.parts and found.failed:
        raise ValueError(next(iter(found.failed.values())))
    for split in need:
        source = "train" if split == "val" and "val" not in found.parts | found.failed else split
        if source in found.failed:
            raise ValueError(found.failed[source])
        if source not in found.parts:
            there = " and ".join(found.parts)
            raise ValueError(f"{path}: has no {split} images, only {there}; add them, or create them with rcnn split")


def _found(path: Path, cache: Path) -> Found:
    """Return the data set of a file or folder, converted if necessary."""
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; give the folder of a data set")
    if not path.is_dir():
        return _of_file(path, cache)
    if (path / SPLIT_FILE).is_file():
        return read_split(path)
    above = path.parent
    if path.name.lower() in ANNOTATIONS and (files := coco_files(above)):
        return coco_parts(above, files)
    if path.name.lower() in ANNOTATIONS and voc_sign(above):
        return _converted("VOC", *voc_splits(above), cache)
    if path.name == "labels" and yolo_sign(above):
        return _converted("YOLO", *yolo_splits(above), cache)
    return _of_folder(path, cache)


def _of_file(path: Path, cache: Path) -> Found:
    suffix = path.suffix.lower()
    if suffix in ARCHIVES:
        raise ValueError(f"{path}: is an archive; unpack it, and give the folder")
    if suffix in (".yaml", ".yml"):
        return _converted("YOLO", *yolo_splits(path), cache)
    if suffix != ".json":
        raise ValueError(f"{path}: is not a data set; give a folder, a data.yaml, or a COCO annotation file (.json)")
    if not in_coco_form(path):
        raise ValueError(
            f"{path}: is not a COCO annotation file (no lists of images and annotations); give one, or a folder"
        )
    found = coco_parts(path.parent, [CocoFile(path, None, 0)])
    others = [one.path for one in coco_files(path.parent) if one.path != path and one.split == "val"]
    if others:
        found.lines.append(f"{shown(others[0].name)} in the same folder is not used; give the folder to use both")
    return found


def format_of(folder: Path) -> str | None:
    """Return the format of the data in a folder: ``COCO``, ``YOLO``, ``VOC``, or None if it has none of them.

    Raises:
        ValueError: the folder has data of several formats.
    """
    files = coco_files(folder)
    signs = {
        "COCO": files[0].path.relative_to(folder).as_posix() if files else None,
        "YOLO": yolo_sign(folder),
        "VOC": voc_sign(folder),
    }
    found = {form: sign for form, sign in signs.items() if sign is not None}
    if len(found) > 1:
        several = " and ".join(f"{_DATA[form]} ({shown(sign)})" for form, sign in found.items())
        raise ValueError(
            f"{folder}: has {several}; give one of them: the COCO file, the data.yaml or the folder of the labels, or "
            "the folder Annotations"
        )
    return next(iter(found), None)


def _of_folder(folder: Path, cache: Path) -> Found:
    """Return the data set in a folder, or in its only subfolder."""
    for place in _inwards(folder):
        form = format_of(place)
        if form == "COCO":
            return coco_parts(place, coco_files(place))
        if form == "YOLO":
            return _converted(form, *yolo_splits(place), cache)
        if form == "VOC":
            return _converted(form, *voc_splits(place), cache)
    raise ValueError(f"{folder}: no data set found: {_contents(place)}; expected {KNOWN}")


def _inwards(folder: Path) -> list[Path]:
    """Return a folder and its chain of only subfolders, which unpacked archives often have."""
    places = [folder]
    while len(places) < 4 and len(inner := folders_in(places[-1])) == 1:
        places.append(inner[0])
    return places


def _contents(folder: Path) -> str:
    """Describe the content of a folder in a few words."""
    kinds = {
        "image file": SUFFIXES,
        ".json file (not COCO)": (".json",),
        ".xml file (not VOC)": (".xml",),
        ".txt file": (".txt",),
        "archive file": ARCHIVES,
    }
    counts = {kind: len(files_in(folder, *suffixes)) for kind, suffixes in kinds.items()}
    some = [plural(count, kind, kind.replace("file", "files")) for kind, count in counts.items() if count]
    names = [shown(one.name) for one in folders_in(folder)]
    if names:
        listed = ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])])
        some.append(f"{plural(len(names), 'folder')} ({listed})")
    return f"{folder.name} has {', '.join(some) or 'nothing in it'}"


def _converted(form: str, splits: dict[str, Unread], failed: dict[str, str], lines: list[str], cache: Path) -> Found:
    """Return a data set of another format, converted into the cache."""

    def make(folder: Path) -> dict[str, Any]:
        coco, summaries, wrong = {}, {}, {}
        for split, unread in splits.items():
            try:
                coco[split], account = unread.read()
            except (OSError, ValueError) as error:
                wrong[split] = str(error)
                continue
            summaries[split] = account.summary()
        for split, content in _same_categories(coco).items():
            write_json(content, folder / f"{split}.json")
        return {"files": [f"{split}.json" for split in coco], "lines": summaries, "failed": wrong}

    keys = [[split, str(one.images), fingerprint(one.files), one.settings] for split, one in splits.items()]
    folder, note, known = kept(cache, [form, keys], make)
    if known and (readable := [split for split in note["failed"] if _can_be_read(splits[split])]):
        folder, note, known = kept(cache, [form, keys, readable], make)  # the disk was unavailable at the first try
    found = Found(form, failed=failed | note["failed"])
    for split in (one for one in splits if f"{one}.json" in note["files"]):
        found.parts[split] = Part(splits[split].images, folder / f"{split}.json")
        found.lines += [f"{split}: {note['lines'][split][0]}", *(f"  {line}" for line in note["lines"][split][1:])]
    found.lines += [*lines, f"converted to COCO's format{' earlier' * known}, in {shown(folder, None)}"]
    return found


def _can_be_read(unread: Unread) -> bool:
    try:
        unread.read()
    except (OSError, ValueError):
        return False
    return True


def _same_categories(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give all parts the same list of categories; before, each part lists only its own classes."""
    lists = [part["categories"] for part in parts.values()]
    if all(one == lists[0] for one in lists):
        return parts
    names = sorted({one["name"] for categories in lists for one in categories})
    number = {name: k for k, name in enumerate(names, start=1)}
    for part in parts.values():
        new = {one["id"]: number[one["name"]] for one in part["categories"]}
        for annotation in part["annotations"]:
            annotation["category_id"] = new[annotation["category_id"]]
        part["categories"] = [{"id": k, "name": name} for name, k in number.items()]
    return parts
