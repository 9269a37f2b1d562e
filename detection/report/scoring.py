"""Score a detector, or result files, against annotations: what ``rcnn evaluate`` does."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.documents import read_json
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import lvis_numbers
from detection.evaluation.found import KEYS
from detection.evaluation.limits import COCO_LIMITS, limits_up_to
from detection.evaluation.percent import percent
from detection.evaluation.results import read_results, with_boxes, write_results
from detection.evaluation.voc import voc_ap50
from detection.foreign import shown
from detection.inference.options import LEAST, check_apart, check_least
from detection.provenance import about
from detection.report.analysis import Analysis, analyse
from detection.report.files import write
from detection.report.operating import parse_rule
from detection.report.options import EvaluateOptions
from detection.report.processes import processes
from detection.report.truth import open_truth
from detection.wording import plural

if TYPE_CHECKING:
    from detection.report.run import Collected

MAP_FILES = (
    "maps.html",
    "maps.json",
    *(f"{part}_{kind}.csv" for part in ("classes", "images") for kind in ("semantic", "panoptic")),
)
"""Files of the report of maps."""
OF_MODELS = {"precision": "fp32", "size": None, "flip": False, "short_sides": None} | dict.fromkeys(
    ("tile", "soft_nms", "refine")
)
"""Options that change how a model runs on an image, and their defaults."""


def evaluate(options: EvaluateOptions) -> None:
    """Evaluate a model or result files, print the metrics, and write a report.

    Raises:
        ValueError: an option, the model or the data are invalid.
    """
    with processes() as rank:
        evaluator, found = _collect(options)
        if rank == 0 and evaluator is not None:
            _report(options, evaluator, None if found is None else found.detector)
        if rank == 0 and found is not None and found.maps is not None:
            _report_maps(options, found)


def _collect(options: EvaluateOptions) -> "tuple[CocoEvaluator | None, Collected | None]":
    """Return the evaluator with all detections, and what a model found, or None for result files."""
    check_least(options, LEAST | {"resamplings": 0, "pictures": 0, "workers": 0, "refine": 0})
    check_apart(vars(options), "--")
    if options.max_dets != COCO_LIMITS[-1] and options.protocol != "coco":
        raise ValueError(f"--max-dets is for --protocol coco; {options.protocol} has its own limit, leave it out")
    limits_up_to(options.max_dets)
    if options.images is not None and not options.images.is_dir():
        raise ValueError(f"{options.images}: no such folder of images; give it with --images")
    if options.protocol == "voc" and "bbox" not in (options.iou_types or ["bbox"]):
        raise ValueError(
            f"--iou-types {' '.join(options.iou_types or [])}: --protocol voc scores boxes alone; leave one out"
        )
    if not options.annotations.is_file():
        raise ValueError(f"{options.annotations}: no such annotation file; give one with --annotations")
    if options.calibrate and not options.set_thresholds:
        raise ValueError("--calibrate: stores a temperature with the thresholds; add --set-thresholds best-f1")
    if options.set_thresholds:
        check_rule(options)
    if all(source.endswith(".json") for source in options.what):
        for name, default in OF_MODELS.items():
            if getattr(options, name) != default:
                raise ValueError(f"--{name.replace('_', '-')} is for a model, not for result files")
        return _read(options), None
    if len(options.what) > 1:
        raise ValueError("give one model, or one or more result files that end in .json")
    if options.images is None:
        raise ValueError("a model needs the images: give their folder with --images")
    # Imported late: result files need no model, and torchvision needs 0.2 GB.
    from detection.report.run import collect

    found = collect(options, options.images, lambda: open_truth(options.annotations, _ground_truth(options)))
    return found.evaluator, found


def check_rule(options: EvaluateOptions) -> None:
    """Check what can be checked about thresholds before the detector runs.

    Raises:
        ValueError: an unknown rule, a model whose file cannot hold thresholds, or another protocol than COCO's.
    """
    from detection.report.set_thresholds import file_to_change

    parse_rule(str(options.set_thresholds))
    file_to_change(options.what[0])
    if options.protocol != "coco":
        raise ValueError(f"--set-thresholds: is for --protocol coco, not {options.protocol}")


def _read(options: EvaluateOptions) -> CocoEvaluator:
    """Return the evaluator with the detections of result files."""
    types: list[str] = options.iou_types or []
    if not types:
        held = set().union(*(_kinds(Path(source)) for source in options.what))
        types = [kind for kind in KEYS if kind in held] or ["bbox"]
        if options.protocol == "voc" and "bbox" not in types:
            types = ["bbox"]
    limits = limits_up_to(options.max_dets)
    sigmas = options.keypoint_sigmas
    evaluator = CocoEvaluator(
        options.annotations, types, options.engine, "all", max_detections=limits, keypoint_sigmas=sigmas
    )
    empty, absent = True, set(types)
    sources: dict[tuple[str, int], str] = {}
    for source in options.what:  # one by one, because half a million masks need a gigabyte
        results = _results(Path(source), options.annotations, evaluator)
        empty = empty and not results
        absent -= {kind for kind in absent if any(KEYS[kind] in result for result in results)}
        _check_shared(results, source, types, sources)
        evaluator.add_results(results)
        del results
    for kind in () if empty else sorted(absent - {"bbox"}):
        raise ValueError(
            f"{', '.join(options.what)}: no result has the key {KEYS[kind]!r}, which --iou-types {kind} scores"
        )
    if "bbox" in absent and not empty:
        for source in options.what:
            evaluator.add_results(with_boxes(_results(Path(source), options.annotations, evaluator), source))
    return evaluator


def _kinds(source: Path) -> set[str]:
    """Return the IoU types for which a file has results; search all of it, since the first may have only one type."""
    content = source.read_bytes()
    return {kind for kind, key in KEYS.items() if f'"{key}"'.encode() in content}


def _check_shared(
    results: list[dict[str, Any]], source: str, types: list[str], sources: dict[tuple[str, int], str]
) -> None:
    """Reject results of an image for which another file also has results.

    Args:
        sources: file of each IoU type and image so far; this function adds to it.
    """
    for kind in types:
        for image_id in {result["image_id"] for result in results if KEYS[kind] in result}:
            first = sources.setdefault((kind, image_id), source)
            if first != source:
                raise ValueError(
                    f"{first} and {source}: both have {KEYS[kind]} results of image {image_id}; "
                    "join the files into one, or leave one out"
                )


def _results(source: Path, annotations: Path, evaluator: CocoEvaluator) -> list[dict[str, Any]]:
    """Read a result file. The ``images.json`` that rcnn predict writes beside it gives the annotations' image ids."""
    results = read_results(source)
    beside = source.with_name("images.json")
    # Results that rcnn evaluate wrote into the same folder have the ids of the annotations.
    if not beside.is_file() or source.name in [f"results_{kind}.json" for kind in KEYS]:
        return results
    listed = read_json(beside)
    if not isinstance(listed, dict) or not isinstance(listed.get("images"), list):
        return results
    names = {image["id"]: image["file_name"] for image in listed["images"] if {"id", "file_name"} <= {*image}}
    used = {result["image_id"] for result in results}
    if not used <= names.keys():  # images.json belongs to other results
        return results
    truth = evaluator.truth(evaluator.iou_types[0])
    ids = {image["file_name"]: image["id"] for image in truth["images"] if "file_name" in image}
    for file, known in ((beside, listed["images"]), (annotations, truth["images"])):
        counts = Counter(image.get("file_name") for image in known)
        twice = sorted({names[id] for id in used if counts[names[id]] > 1})
        if twice:
            raise ValueError(
                f"{file}: {plural(len(twice), 'file name')} occurring twice, as {twice[0]}, so that image ids are not "
                f"known; remove {beside} if the image ids of {source} are those of {annotations}"
            )
    lost = sorted(names[id] for id in used if names[id] not in ids)
    if lost:
        raise ValueError(f"{beside}: {lost[0]} is no file name of {annotations}, so that its image id is not known")
    if all(ids[names[id]] == id for id in used):
        return results
    print(f"{source}: its image ids are not those of {annotations}; matched by the file names in {beside}")
    return [result | {"image_id": ids[names[result["image_id"]]]} for result in results]


def _report(options: EvaluateOptions, evaluator: CocoEvaluator, detector: str | None) -> None:
    """Print the numbers, and write all files."""
    folder: Path = options.output
    from_model = not options.what[0].endswith(".json")
    lvis = {}
    if options.protocol == "lvis" and "keypoints" in evaluator.iou_types:
        raise ValueError("--protocol lvis scores boxes and masks alone; set --iou-types")
    if options.protocol == "lvis":  # first, because it may raise an error
        lvis = {k: lvis_numbers(evaluator.truth(k), evaluator.results(k), k) for k in evaluator.iou_types}
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder, [Path(source) for source in options.what])
    if evaluator.dropped:
        print(f"{plural(evaluator.dropped, 'detection')} with NaN, Inf or a negative size: not scored")
    _print_head(options, from_model)
    # Detections of a model are matched already. Result files are matched once, for the report.
    at_once = options.protocol == "coco" and (from_model or evaluator.engine != "hotcoco")
    if at_once:
        numbers = evaluator.evaluate()
        for kind in evaluator.iou_types:
            _print(kind, {name.split("/")[1]: v for name, v in numbers.items() if name.startswith(kind)})
    for kind in evaluator.iou_types if options.protocol == "coco" else ():
        for line in evaluator.beyond_limit(kind, "--max-dets {most}"):
            print(line)
    for kind in evaluator.iou_types:
        write_results(folder / f"results_{kind}.json", evaluator.results(kind))
    if lvis:
        for kind, values in lvis.items():
            _print(kind, values)
        return
    if options.protocol == "voc":
        precision = voc_ap50(evaluator.truth("bbox"), evaluator.results("bbox"))
        names = dict(zip(evaluator.categories.ids, evaluator.categories.names, strict=True))
        mean = sum(precision.values()) / len(precision) if precision else math.nan
        _print("bbox, VOC", {"AP50": mean} | {names[id]: value for id, value in precision.items()})
        return
    if evaluator.engine != "hotcoco":
        print("the report needs hotcoco; leave --engine out")
        return
    analyses: list[Analysis] = []
    for kind in evaluator.iou_types:
        analyses.append(analyse(evaluator, kind, options.resamplings))
        if not at_once:
            _print(kind, {name: measure.value for name, measure in analyses[-1].numbers.items()})
    sources = [Path(source) for source in options.what if Path(source).is_file()]
    images = [image["id"] for image in evaluator.truth(evaluator.iou_types[0])["images"]]
    given = {"name": options.name, "detector": detector, "data": options.data and str(options.data)}
    made_of: dict[str, Any] = {key: value for key, value in given.items() if value}
    made_of |= {"split": options.split} if options.data else {}
    made_of |= {"model" if from_model else "results": ", ".join(options.what)}
    made_of |= about(options.annotations, sources, images, options.protocol, evaluator.engine)
    made_of |= {"ground_truth": _ground_truth(options), "max_detections": options.max_dets}
    made_of |= {"keypoint_sigmas": options.keypoint_sigmas} if options.keypoint_sigmas else {}
    made_of |= {"images": str(options.images)} if options.images else {}
    made_of |= {"precision": "unknown, because the detections are from result files"}
    if from_model:
        made_of |= {way: getattr(options, way) for way in OF_MODELS if getattr(options, way)}
    write(folder, evaluator, analyses, made_of, options.images, options.pictures)
    if options.set_thresholds:
        from detection.report.set_thresholds import set_thresholds

        print("\n".join(set_thresholds(options, evaluator)))
    print(f"report: {folder / 'report.html'}")


def _report_maps(options: EvaluateOptions, found: "Collected") -> None:
    """Write the report of semantic and panoptic maps, and print their numbers."""
    from detection.report.maps.scoring import write_maps

    assert found.maps is not None
    assert found.annotations is not None
    sources = [Path(source) for source in (*options.what, options.panoptic, options.semantic_classes) if source]
    given = {"name": options.name, "detector": found.detector, "data": options.data and str(options.data)}
    made_of: dict[str, Any] = {key: value for key, value in given.items() if value}
    made_of |= {"split": options.split} if options.data else {}
    kind = "panoptic" if options.panoptic else "labels" if options.labels else "instances"
    files = [source for source in sources if source.is_file()]
    made_of |= {"model": options.what[0]}
    made_of |= about(options.annotations, files, found.annotations.image_ids.tolist(), f"maps from {kind}", "numpy")
    made_of |= {"images": str(options.images), "precision": options.precision}
    made_of |= {way: getattr(options, way) for way in OF_MODELS if getattr(options, way)}
    lines = write_maps(options.output, found.maps, found.model, found.annotations, options, made_of)  # type: ignore[arg-type]
    print("\n".join(lines))


def _clear(folder: Path, sources: Sequence[Path]) -> None:
    """Remove the files of an earlier evaluation, so that all files in the folder belong to the same detections.

    Keep its result files if this evaluation scores them.
    """
    names = [
        "report.html",
        "report.json",
        *MAP_FILES,
        *(f"{part}_{kind}.csv" for part in ("classes", "images") for kind in KEYS),
    ]
    left, results = ([folder / name for name in of] for of in (names, [f"results_{kind}.json" for kind in KEYS]))
    if not {path.resolve() for path in results} & {source.resolve() for source in sources}:
        left += results
    for path in left:
        path.unlink(missing_ok=True)


def _ground_truth(options: EvaluateOptions) -> str:
    """Return the kind of ground truth: ``file`` (the unchanged annotation file) or ``checked``.

    Result files and LVIS use the unchanged file: only it has LVIS's lists of absent classes. Models use the checked
    annotations.
    """
    return "file" if options.protocol == "lvis" or options.what[0].endswith(".json") else "checked"


def _print_head(options: EvaluateOptions, from_model: bool) -> None:
    """Print the protocol, the precision and the limit of detections of the metrics that follow."""
    limit = f", at most {options.max_dets} detections of a class in an image" if options.protocol == "coco" else ""
    found = f"found in {options.precision}" if from_model else "of result files"
    print(f"{options.protocol.upper()} metrics in percent, detections {found}{limit}")


def _print(kind: str, numbers: dict[str, float]) -> None:
    print(f"{kind}:  " + "  ".join(f"{shown(name)} {percent(value)}" for name, value in numbers.items()))
