import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from detection import wording
from detection.wording import of_kind, plural

ROOT = Path(__file__).resolve().parents[2]

COUNTED = (
    *("annotations", "batches", "bits", "boxes", "bytes", "categories", "channels", "classes", "colors", "components"),
    *("crowds", "detections", "devices", "digits", "entries", "epochs", "fields", "files", "frames", "groups", "ids"),
    *("images", "lengths", "levels", "lines", "masks", "names", "numbers", "objects", "outlines", "parts", "pictures"),
    *("pixels", "polygons", "processes", "ranks", "samples", "sizes", "splits", "stages", "steps", "strips", "tensors"),
    *("threads", "tiles", "validations", "values", "workers", "are", "have", "were"),
)
NO_ADJECTIVE = (
    *(
        "has",
        "have",
        "of",
        "is",
        "are",
        "was",
        "on",
        "with",
        "in",
        "and",
        "or",
        "for",
        "from",
        "would",
        "as",
        "to",
        "the",
    ),
    *("if", "without", "holds", "hides", "at", "than", "give", "takes", "by", "it", "no", "its", "lacks", "more"),
)
NUMBER_THEN_NOUN = re.compile(rf" (?:(?!(?:{'|'.join(NO_ADJECTIVE)}) )[a-z]+ ){{0,2}}({'|'.join(COUNTED)})\b")

ABOVE_ONE = {
    # what stands before the noun is never 1
    "detection/coco/crowds.py: objects": "the line has another sentence for one",
    "detection/data/header.py: data[at + 6]": "more than 4",
    "detection/data/names.py: len(fitting)": "one file that fits is taken",
    "detection/data/tiff.py: others + 1": "one image is read",
    "detection/evaluation/ground_truth.py: len(annotations)": "the line has another sentence for one",
    "detection/report/page.py: len(kept)": "a part of the classes, the largest that fits",
    "detection/commands/backbones.py: len(_timm_names())": "timm has hundreds",
    "backbones/base.py: last": "a stride, 2 at least",
    "detection/formats/set_aside.py: count": "a group has two images at least",
    # a limit that is a large constant, or is above one
    "detection/coco/checks.py: max_pixels": "millions",
    "detection/coco/box_forms.py: len(boxes)": "FEWEST at least, which is above one",
    "detection/inference/info.py: self.test_size[0]": "a side of hundreds of pixels",
    "detection/evaluation/limits.py: limit": "above 10",
    "detection/report/scoring.py: options.max_dets": "above 10",
    "detection/report/page.py: first.max_detections": "above 10",
    "detection/models/cascade.py: lengths['thresholds']": "0, or above 16",
    "detection/data/header.py: channels": "another number than 3 and 4",
    "detection/data/maps.py: len(categories)": "more than 255",
    "detection/models/semantic_head.py: num_classes": "0, or more than 255",
    "detection/evaluation/keypoints.py: len(result)": "a multiple of three",
    "detection/data/flipping.py: list(pair)": "a pair",
    # no whole number
    "detection/visualize.py: labels.shape": "a shape",
    "detection/engine/data_config.py: list(self.unlabelled)": "a list",
    "detection/export/card.py: tolerances['keypoints']": "0.01 pixels",
    "detection/export/gate.py: max(points)": "a fraction",
    "detection/export/card.py: tolerances['boxes']": "a tolerance with a decimal",
    "detection/export/gate.py: boxes": "a difference with a decimal",
    "detection/inference/folders.py: options.model": "a path",
    "detection/commands/backbones.py: options.side": "a side of hundreds of pixels",
    "tools/benchmark/command.py: rate": "a speed",
    "detection/commands/benchmark.py: row['images_per_second']": "a speed",
    "detection/engine/status.py: speed": "a speed",
    "detection/engine/schedule.py: schedule.total / steps_per_epoch": "with a decimal",
}
"""By file and expression: why no "1 images" can come of it."""


WORDS = {
    "split",
    "other",
    "name",
    "what",
    "source",
    "origin",
    "kind",
    "path",
    "dtype",
    "first",
    "second",
    "word",
    "upper()",
}
"""Last parts of expressions that are text, though a noun follows."""


def unguarded(source: str) -> Iterator[str]:
    """Expressions in f-strings that stand before a noun in the plural, unless they are constants or no numbers."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for before, value, after in zip([None, *node.values], node.values, node.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            expression = ast.unparse(value.value)
            side = isinstance(before, ast.Constant) and str(before.value).endswith(" x ")  # 1 x 1 pixels
            text = value.conversion != -1 or re.match(r"(shown|plural|of_kind|str|escape|tuple)\(", expression)
            found = NUMBER_THEN_NOUN.match(str(after.value))
            word = re.split(r"[.\[]", expression)[-1] in WORDS or expression == "KEYS[kind]" or ".join(" in expression
            if found and not side and not text and not word and not expression.isupper():
                yield expression


def test_no_message_puts_a_number_before_a_plural_by_itself():
    found = {
        f"{path.relative_to(ROOT)}: {expression}"
        for folder in ("detection", "backbones", "tools")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for expression in unguarded(path.read_text(encoding="utf-8"))
    }
    assert found - ABOVE_ONE.keys() == set()


def test_no_message_leaves_the_number_open():
    found = [
        f"{path.relative_to(ROOT)}: {node.value}"
        for folder in ("detection", "backbones", "tools")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and re.search(r"[a-z]\(e?s\)(\W|$)", str(node.value))
    ]
    assert found == []


def test_the_search_finds_what_it_looks_for():
    source = (
        'f"{len(a)} images, {b} of {c:,} trainable classes, {d} x {e} pixels, {MOST} images, {plural(f, g)} images"'
    )
    assert list(unguarded(source)) == ["len(a)", "c"]


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (1, ("image",), "1 image"),
        (0, ("image",), "0 images"),
        (2, ("class",), "2 classes"),
        (2, ("batch",), "2 batches"),
        (2, ("category",), "2 categories"),
        (2, ("day",), "2 days"),
        (1, ("image has", "images have"), "1 image has"),
        (3, ("image has", "images have"), "3 images have"),
        (1234, ("object", None, ","), "1,234 objects"),
    ],
)
def test_a_noun_follows_its_number(count, words, expected):
    assert plural(count, *words) == expected


COUNTING = ("warn", "note", "drop", "change", "lose")


def kinds() -> set[str]:
    """What reports and conversions count, as it stands in the source; expressions in it become ``X``."""
    found = set()
    for path in (path for folder in ("coco", "data", "formats") for path in (ROOT / "detection" / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            if node.func.attr in COUNTING and ast.unparse(node.func.value) != "warnings":
                found.add(phrase(node.args[0]))
            elif node.func.attr == "take" and len(node.args) == 2:
                found.add(phrase(node.args[1]))
    return found - {""}


def phrase(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "X" for one in node.values)
    return str(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def named_kinds() -> set[str]:
    """Those with a name, or out of a table."""
    from detection.coco import annotations, checks, meaning, segmentation
    from detection.data import names
    from detection.evaluation import ground_truth

    found = {annotations.TWICE, checks.OVER, checks.UNLISTED, meaning.IGNORED, segmentation.MASKLESS}
    return found | {ground_truth.MASKLESS, *meaning.FIELDS.values(), *names.FOUND}


@pytest.mark.parametrize("kind", sorted(kinds() | named_kinds()))
def test_every_kind_that_is_counted_has_a_singular(kind):
    said, _, bracket = of_kind(1, kind).partition("(")
    assert of_kind(2, kind) == f"2 {kind}"
    if kind.startswith("X "):  # a form, and what follows it
        return
    assert said != "1 " + kind.partition("(")[0]
    assert not re.search(r"\b(that|which) (are|occur|reach|share|have)\b|\btheir\b", said)
    assert not re.search(r"\b(they|them|their|all)\b", bracket.replace("like all others", "").replace("(all", ""))


def test_the_first_noun_decides():
    assert of_kind(1, "boxes outside their image (dropped)") == "1 box outside its image (dropped)"
    assert (
        of_kind(1, "annotation ids that occur twice (renumbered)") == "1 annotation id that occurs twice (renumbered)"
    )
    assert (
        of_kind(1, "RLEs that share a list with others (dropped)") == "1 RLE that shares a list with others (dropped)"
    )
    assert set(wording.NOUNS.values()).isdisjoint(wording.NOUNS)
