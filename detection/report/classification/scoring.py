"""Score a classifier on images, and write the report: what ``rcnn evaluate`` does for a classifier."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from backbones.classifiers import Classifier
from detection.checkpoint_files import replacing
from detection.data.labelled import LabelledImages
from detection.data.labelled_dataset import LabelledDataset, collate_labelled
from detection.evaluation.classification import ClassificationEvaluator, Scored
from detection.evaluation.multi_label import MultiLabelEvaluator, ScoredSeveral
from detection.evaluation.percent import percent
from detection.foreign import cell, shown
from detection.provenance import checksum, software
from detection.quiet import is_quiet
from detection.report.classification.content import PREDICTIONS, SCORES, TRUTH, judged_of, report_of
from detection.report.classification.options import ClassifierEvaluation
from detection.report.classification.page import page
from detection.report.classification.wrong import wrong_images
from detection.report.files import plain
from detection.wording import plural

FILES = (PREDICTIONS, SCORES, TRUTH, "report.html", "report.json", "classes.csv")


@dataclass(frozen=True)
class Found:
    """What a classifier predicts for some images."""

    images: LabelledImages
    scores: np.ndarray
    """(n, K) float32, probabilities."""
    scored: Scored | ScoredSeveral
    """What the evaluator kept."""
    report: dict[str, Any]
    """Of the evaluator."""

    @property
    def order(self) -> np.ndarray:
        """(n, K) int64, classes of each image, the highest score first."""
        return np.argsort(-self.scores, axis=1, kind="stable")

    @property
    def ranks(self) -> np.ndarray:
        """(n,) int64, place of the true class among the scores of its image, from 1."""
        return 1 + (self.order == self.images.labels[:, None]).argmax(axis=1)


def evaluate_classifier(model: Classifier, data: LabelledDataset, options: ClassifierEvaluation) -> dict[str, Any]:
    """Evaluate a classifier, print its scores, write the report, and return the content of ``report.json``.

    Args:
        model: the classifier.
        data: the images, as the classifier sees them.
        options: options of the evaluation.

    Raises:
        ValueError: an image cannot be read.
    """
    folder = Path(options.output)
    found = collect(model, data, options.batch, options.workers)
    judged = judged_of(found.scored, len(found.images.classes))
    report = report_of(found.report, judged, options.resamplings)
    about = made_of(model, found.images, options)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    write_predictions(folder, found)
    write_csv(folder / "classes.csv", list(report["classes"][0]), [list(row.values()) for row in report["classes"]])
    worst = wrong_images(found.scored, found.images, data, options.pictures)
    beside = [name for name in ("report.json", "classes.csv", PREDICTIONS, SCORES, TRUTH) if name != "report.html"]
    beside = [name for name in beside if name == "report.json" or (folder / name).is_file()]
    _write(folder / "report.html", page(report, about, worst, beside))
    content: dict[str, Any] = plain({"about": about, "classification": report})
    _write(folder / "report.json", json.dumps(content, indent=1))
    print(f"{shown(about['name'])} on {plural(len(judged), 'image')}, in percent:")
    numbers = "  ".join(f"{name} {percent(one['value'])}" for name, one in report["numbers"].items())
    print(f"{numbers}  loss {report['loss']:.3f}")
    print(f"report: {folder / 'report.html'}")
    return content


@torch.inference_mode()
def collect(model: Classifier, data: LabelledDataset, batch: int, workers: int) -> Found:
    """Run a classifier on all images."""
    images, device = data.images, model.mean.device
    evaluator = (MultiLabelEvaluator if images.multi_label else ClassificationEvaluator)(images.classes)
    parts = []
    loader = DataLoader(data, batch, num_workers=workers, collate_fn=collate_labelled)
    for each in tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=is_quiet() or None):
        logits = model.eval()(each.images.to(device)).float().cpu()
        if images.multi_label:
            losses = F.binary_cross_entropy_with_logits(logits, each.labels.float(), reduction="none").mean(dim=1)
            parts.append(logits.sigmoid())
        else:
            losses = F.cross_entropy(logits, each.labels, reduction="none")
            parts.append(logits.softmax(dim=1))
        evaluator.add(each.image_ids, each.labels, logits, losses)
    return Found(images, torch.cat(parts).numpy(), evaluator.state()[0], evaluator.report())


def made_of(model: Classifier, images: LabelledImages, options: ClassifierEvaluation) -> dict[str, Any]:
    """Return model, data, checksums and versions of an evaluation."""
    listed, labels = hashlib.sha256(), hashlib.sha256("\0".join(images.classes).encode(errors="surrogatepass"))
    for index in range(len(images)):
        listed.update(images.files[index].encode(errors="surrogatepass") + b"\0")
    if images.crops is not None:
        listed.update(images.crops.tobytes())
    labels.update(images.labels.tobytes())
    sources = [path for path in (Path(options.model), images.source) if path.is_file()]
    return {
        "name": options.name or f"Classifier {shown(model.config.name)}",
        "model": options.model,
        "data": options.data,
        "split": options.split,
        "annotations": str(images.source),
        "images": str(images.folder),
        "images_scored": len(images),
        "classes": len(images.classes),
        "protocol": "several classes per image" if images.multi_label else "one class per image",
        "annotations_sha256": labels.hexdigest(),
        "image_ids_sha256": listed.hexdigest(),
        **{f"sha256_of_{path.name}": checksum(path) for path in sources},
        **software(),
        "precision": "fp32",
    }


def write_predictions(folder: Path, found: Found) -> None:
    """Write :data:`PREDICTIONS` or, for several classes per image, :data:`SCORES` and :data:`TRUTH`."""
    images = found.images
    names = [cell(images.files[index], None) for index in range(len(images))]
    if images.multi_label:
        heads = ["file", *map(cell, images.classes)]
        write_csv(
            folder / SCORES, heads, [[name, *row] for name, row in zip(names, found.scores.tolist(), strict=True)]
        )
        truth = images.labels.astype(int).tolist()
        write_csv(folder / TRUTH, heads, [[name, *row] for name, row in zip(names, truth, strict=True)])
        return
    best, place = found.order[:, 0], np.arange(len(images))
    classes = [cell(name) for name in images.classes]
    columns = (found.scores[place, best].tolist(), found.scores[place, images.labels].tolist(), found.ranks.tolist())
    rows = [
        [name, classes[true], classes[predicted], *numbers]
        for name, true, predicted, *numbers in zip(names, images.labels, best, *columns, strict=True)
    ]
    write_csv(folder / PREDICTIONS, ["file", "label", "predicted", "score", "score_of_label", "rank_of_label"], rows)


def write_csv(path: Path, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table; numbers have six significant digits."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows([f"{one:.6g}" if isinstance(one, float) else one for one in row] for row in rows)


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
