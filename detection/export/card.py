"""The card of an export: what it is, what made it, and how its detections differ from those of the checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from detection.export.options import EQUAL, PROBABILITY
from detection.foreign import shown
from detection.wording import plural


def card(settings: Mapping[str, Any], size: int) -> str:
    """Return the card as Markdown.

    Args:
        settings: content of ``model.json``.
        size: bytes of the model's file.
    """
    about, gate, info = settings["export"], settings["gate"], settings["rcnn"]
    classes = (info["categories"] or {}).get("names") or [str(k) for k in range(info["num_classes"])]
    lines = [
        f"# {about['format']} export",
        "",
        f"**Parity gate: {'passed' if gate['passed'] else 'FAILED'}** ({gate['engine']} against PyTorch).",
        "",
        *([gate["failure"], ""] if gate.get("failure") else []),
        *_objects(gate),
        *_maps(gate.get("maps")),
        *_full(gate.get("full")),
        *_accuracy(gate["accuracy"]),
        *_int8(gate["int8"]),
        *facts(settings, classes, size),
        "Run it without PyTorch: `python predict.py image.jpg`.",
        "",
    ]
    return "\n".join(lines)


def facts(settings: Mapping[str, Any], classes: Sequence[str], size: int) -> list[str]:
    """Return the table of classes, file, weights and versions, and an empty line.

    Args:
        settings: content of ``model.json``.
        classes: names by label.
        size: bytes of the model's file.
    """
    about = settings["export"]
    return [
        "| | |",
        "| --- | --- |",
        f"| classes | {len(classes)}: {', '.join(shown(name).replace('|', '/') for name in classes[:20])} |",
        f"| file | {size / 1e6:.1f} MB, SHA-256 {', '.join(settings['files'].values())} |",
        f"| weights | SHA-256 {about['weights_sha256']} |",
        f"| versions | {', '.join(f'{name} {number}' for name, number in about['versions'].items())} |",
        "",
    ]


def _objects(gate: Mapping[str, Any]) -> list[str]:
    """Return the table of detections, or nothing for a detector that finds none."""
    rows, tolerances = gate["images"], gate["tolerances"]
    if not rows:
        return []
    points = any(one.get("keypoints") is not None for one in rows)
    heads = ["image", "detections", "boxes, pixels", "scores", "masks", "mask IoU", "unmatched", "at the cut"]
    heads += ["sensitive", *(["keypoints, pixels"] if points else [])]
    also = f"keypoints {tolerances['keypoints']} pixels, " if points else ""
    return [
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
        *(_row(one, points) for one in rows),
        "",
        f"Tolerances: boxes {tolerances['boxes']} pixels, {also}scores {tolerances['scores']}, probabilities "
        f"of masks {tolerances['masks']}, no unmatched detection. Columns hold the largest difference of an "
        "image, and the smallest IoU. Sensitive detections move by more if rounding changes, and may differ as far.",
        "",
    ]


def _maps(rows: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return the table of semantic and panoptic maps, or nothing."""
    if not rows:
        return []
    panoptic = any(one["panoptic"] is not None for one in rows)
    heads = ["image", "class probabilities", "sensitive cells", "wrong cells", "equal pixels, %"]
    heads += ["panoptic, equal pixels, %"] if panoptic else []
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for one in rows:
        cells = [_name(one), f"{one['probabilities']:.1e}", one["sensitive"], one["wrong"]]
        cells += [f"{100 * one[name]:.3f}" for name in ("semantic", *(["panoptic"] if panoptic else []))]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    note = (
        f"Tolerances of maps: probabilities {PROBABILITY}, equal pixels {100 * EQUAL:g} %. A cell is sensitive if its "
        "probabilities move by more when rounding changes. Where rounding changes more pixels, as many may differ."
    )
    return [*lines, "", note, ""]


def _full(found: Mapping[str, Any] | None) -> list[str]:
    """Return the line about masks of whole canvases, or nothing."""
    if found is None:
        return []
    masks, pixels = plural(found["masks"], "full mask"), plural(found["pixels"], "pixel")
    return [f"{masks} against the masks of the boxes, pasted: {pixels} with another value, but for those near 0.5.", ""]


def _accuracy(found: Mapping[str, Any] | None) -> list[str]:
    """Return the table of AP, or nothing."""
    if found is None:
        return []
    rows = [f"| {kind} | {100 * ap:.2f} | {100 * found['theirs'][kind]:.2f} |" for kind, ap in found["ours"].items()]
    head = [f"AP in percent, on {plural(found['images'], 'image')}; the largest difference that passes is "]
    head[0] += f"{100 * found['most']:g}."
    return [*head, "", "| | checkpoint | export |", "| --- | --- | --- |", *rows, ""]


def _int8(found: Mapping[str, Any] | None) -> list[str]:
    """Return the layers in float32 of an INT8 export, or nothing."""
    if found is None:
        return []
    rows = [
        f"| {kind} | {100 * change:+.2f} | {100 * low:+.2f} to {100 * high:+.2f} |"
        for kind, (change, low, high) in found["change"].items()
    ]
    head = f"{plural(found['layers'], 'layer')} in INT8. Change of AP on the images that decided ({found['images']}):"
    table = [head, "", "| | AP | 95 % interval |", "| --- | --- | --- |", *rows, ""]
    return [*table, f"Layers in float32: {', '.join(map(shown, found['float_layers'])) or 'none'}.", ""]


def _row(one: Mapping[str, Any], points: bool = False) -> str:
    masks, iou = ("" if one[name] is None else one[name] for name in ("masks", "mask_iou"))
    numbers = [one["boxes"], one["scores"], masks]
    cells = [_name(one), one["found"], *(f"{x:.1e}" if x != "" else "" for x in numbers)]
    cells += [f"{iou:.4f}" if iou != "" else "", one["unmatched"], one["at_cut"], one["sensitive"]]
    cells += [f"{one['keypoints']:.1e}"] if points else []
    return f"| {' | '.join(map(str, cells))} |"


def _name(one: Mapping[str, Any]) -> str:
    """Return the name of a compared image."""
    return shown(one["image"]).replace("|", "/") + (f", with noise up to {one['noise']}" if one["noise"] else "")
