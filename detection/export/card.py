"""The card of an export: what it is, what made it, and how its detections differ from those of the checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

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
        "| image | detections | boxes, pixels | scores | masks | mask IoU | unmatched | at the cut | sensitive |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(one) for one in gate["images"]),
        "",
        f"Tolerances: boxes {gate['tolerances']['boxes']} pixels, scores {gate['tolerances']['scores']}, probabilities "
        f"of masks {gate['tolerances']['masks']}, no unmatched detection. Columns hold the largest difference of an "
        "image, and the smallest IoU. Sensitive detections move by more if rounding changes, and may differ as far.",
        "",
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


def _row(one: Mapping[str, Any]) -> str:
    masks, iou = ("" if one[name] is None else one[name] for name in ("masks", "mask_iou"))
    numbers = [one["boxes"], one["scores"], masks]
    name = shown(one["image"]).replace("|", "/") + (f", with noise up to {one['noise']}" if one["noise"] else "")
    cells = [name, one["found"], *(f"{x:.1e}" if x != "" else "" for x in numbers)]
    cells += [f"{iou:.4f}" if iou != "" else "", one["unmatched"], one["at_cut"], one["sensitive"]]
    return f"| {' | '.join(map(str, cells))} |"
