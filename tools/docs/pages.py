"""Hooks of mkdocs: insert tables from the code, and make links work on the site as well as in the repository.

A separate line ``<!-- table: NAME -->`` in a page inserts a table; :data:`TABLES` has the names.
"""

import argparse
import ast
import inspect
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")
"""Files at the top of the repository that become pages of the site: ``project/changelog.md``, ..."""
MARK = re.compile(r"^<!-- table: ([\w-]+) -->$", re.MULTILINE)
EXAMPLE = r"<pre><code>\1</code></pre>"
"""Replacement for the lines of a doctest, as Markdown reads ``>>>`` as nested quotations."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages at the top of the repository, and ``llms.txt``."""
    from mkdocs.structure.files import File

    for name in PROJECT:
        files.append(File.generated(config, _project_page(name), content=(ROOT / name).read_text(encoding="utf-8")))
    for path in sorted((ROOT / "docs").rglob("*.ipynb")):
        name = path.relative_to(ROOT / "docs").with_name(f"{path.stem}-notebook.md").as_posix()
        files.append(File.generated(config, name, content=notebook_page(path)))
    listed = (ROOT / "llms.txt").read_text(encoding="utf-8")
    files.append(
        File.generated(config, "llms.txt", content=re.sub(r"\]\(docs/(?:index|([\w/-]+))\.md\)", _address, listed))
    )
    return files


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Show examples in docstrings as code, and remove markup that only Sphinx and doctest use."""
    content = re.sub(r"(?:<blockquote>\s*){3}<p>(.*?)</p>\s*(?:</blockquote>\s*){3}", EXAMPLE, content, flags=re.DOTALL)
    content = re.sub(r":(?:attr|class|data|func|meth|mod):(?=<code>)", "", content)
    content = re.sub(r"(?<=<code>)~[\w.]*?(\w+)(?=</code>)", r"\1", content)
    return re.sub(r" *(?:<span[^>]*>)?# doctest: \+SKIP(?:</span>)?", "", content)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Insert the tables, and convert links of the repository to links of the site."""
    markdown = MARK.sub(lambda mark: TABLES[mark[1]](), markdown)
    source = page.file.src_uri
    origin = next((name for name in PROJECT if _project_page(name) == source), f"docs/{source}")
    return LINK.sub(lambda link: site_link(link[1], link[2], link[3] or "", origin, source), markdown)


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown, with a line below the title that names its file."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, _, rest = parts[0].partition("\n")
    where = f"This page shows the notebook `{path.relative_to(ROOT).as_posix()}`. It runs in Jupyter and in Colab."
    return "\n\n".join([title, where, rest.strip(), *parts[1:]]) + "\n"


def site_link(text: str, target: str, anchor: str, origin: str, source: str) -> str:
    """Return a link of the site, or only the text if the target is a file that is not on the site.

    Args:
        text, target, anchor: the parts of the link.
        origin: path of the page in the repository, such as ``docs/index.md``.
        source: path of the page in the site's sources, such as ``index.md``.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    if path in PROJECT:
        place = _project_page(path)
    elif path.startswith("docs/"):
        place = path.removeprefix("docs/")
    elif path == "README.md":
        place = "index.md"
    elif (ROOT / path).exists():
        return text if text.startswith("`") else f"{text} (`{path}`)"
    else:
        return f"[{text}]({target}{anchor})"  # mkdocs reports it
    return f"[{text}]({posixpath.relpath(place, posixpath.dirname(source) or '.')}{anchor})"


def _address(link: re.Match[str]) -> str:
    return f"]({link[1]}/)" if link[1] else "](.)"


def _project_page(name: str) -> str:
    return f"project/{name.removesuffix('.md').lower().replace('_', '-')}.md"


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    escaped = ((cell if cell.startswith("`") else cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def configs() -> str:
    """Return the recipes with the AP that others published for them, and the parts of each."""
    from detection.engine.configs import list_configs

    recipes = [config for config in list_configs() if not config.title]

    def rows() -> Iterator[tuple[str, ...]]:
        for config in recipes:
            aps = ("" if ap is None else f"{ap:.1f}" for ap in (config.box_ap, config.mask_ap, config.keypoint_ap))
            yield f"`{config.name}`", *aps, config.source or ""

    parts = "\n".join(f"{config.name}:\n  {' + '.join(config.parts)}" for config in recipes)
    return (
        table(("name", "box AP", "mask AP", "keypoint AP", "who published the AP"), rows())
        + f"\n\n```text\n{parts}\n```"
    )


def config_parts() -> str:
    """Return the configs that are files, with their first comment."""
    from detection.engine.configs import list_configs

    rows = ((f"`{config.name}`", config.title) for config in list_configs() if config.title)
    return table(("`--config`", "what it is"), rows)


def models(origin: str) -> Callable[[], str]:
    """Return the function that makes the table of the published detectors of one origin."""

    def make() -> str:
        from detection.convert import zoo

        def rows() -> Iterator[tuple[str, ...]]:
            for name, entry in getattr(zoo, origin.upper()).items():
                aps = ("" if ap is None else f"{ap:.1f}" for ap in (entry.box_ap, entry.mask_ap, entry.keypoint_ap))
                yield f"`{origin}:{name}`", *aps, f"[download]({entry.url})"

        return table(("name", "box AP", "mask AP", "keypoint AP", "file"), rows())

    return make


def backbones() -> str:
    """Return the names of all backbones by family."""
    from backbones import available

    families: dict[str, list[str]] = {}
    for name in available():
        families.setdefault(re.match(r"wide_resnet|[a-z]+", name)[0], []).append(name)  # type: ignore[index]
    rows = ((family, ", ".join(f"`{name}`" for name in names)) for family, names in families.items())
    return table(("family", "`model.backbone.name`"), rows)


def settings() -> str:
    """Return a table for each group of settings: key, default, allowed values and meaning."""
    from backbones import BackboneConfig
    from backbones.classifiers import ClassifierConfig
    from backbones.simsiam import SimSiamConfig
    from detection.engine.average import AverageConfig
    from detection.engine.classify.data_config import (
        Crops,
        LabelledConfig,
        LabelledSplit,
        UnlabelledConfig,
        UnlabelledSplit,
    )
    from detection.engine.classify.module import ClassificationModule, LossConfig
    from detection.engine.data_config import DataConfig, Split
    from detection.engine.module import DetectionModule
    from detection.engine.optim import OptimizerConfig
    from detection.engine.pretrain.module import PretrainingModule
    from detection.engine.run import RunConfig
    from detection.engine.schedule import ScheduleConfig
    from detection.models.anchors import AnchorConfig
    from detection.models.box_head import BoxHeadConfig
    from detection.models.cascade import CascadeConfig
    from detection.models.fpn import FPNConfig
    from detection.models.keypoint_head import KeypointHeadConfig
    from detection.models.mask_head import MaskHeadConfig
    from detection.models.point_head import PointHeadConfig
    from detection.models.rpn import RPNConfig
    from detection.models.semantic_head import SemanticHeadConfig

    groups: tuple[tuple[str, str, type], ...] = (
        ("Data", "data", DataConfig),
        ("One split of the data", "data.train", Split),
        ("Model", "model", DetectionModule),
        ("Backbone", "model.backbone", BackboneConfig),
        ("Feature pyramid", "model.fpn", FPNConfig),
        ("Region proposal network", "model.rpn", RPNConfig),
        ("Anchors", "model.rpn.anchors", AnchorConfig),
        ("Box head", "model.box_head", BoxHeadConfig),
        ("Mask head", "model.mask_head", MaskHeadConfig),
        ("Point head (PointRend)", "model.point_head", PointHeadConfig),
        ("Keypoint head", "model.keypoint_head", KeypointHeadConfig),
        ("Cascade", "model.cascade", CascadeConfig),
        ("Semantic head", "model.semantic_head", SemanticHeadConfig),
        ("Optimizer", "model.optimizer", OptimizerConfig),
        ("Schedule", "model.schedule", ScheduleConfig),
        ("Run", "run", RunConfig),
        ("Averaged weights", "run.average", AverageConfig),
        ("Data of a classifier", "data", LabelledConfig),
        ("One split of the data of a classifier", "data.train", LabelledSplit),
        ("Crops for a classifier", "data.crops", Crops),
        ("Classifier", "model", ClassificationModule),
        ("Network of a classifier", "model.classifier", ClassifierConfig),
        ("Loss of a classifier", "model.loss", LossConfig),
        ("Data of a pretraining without labels", "data", UnlabelledConfig),
        ("Training images without labels", "data.train", UnlabelledSplit),
        ("Pretraining without labels", "model", PretrainingModule),
        ("SimSiam", "model.simsiam", SimSiamConfig),
    )
    known = {kind for _, _, kind in groups}
    parts = []
    for title, prefix, kind in groups:
        rows = (row for row in _settings_of(kind, prefix, known))
        parts.append(f"## {title}\n\n{table(('key', 'default', 'type', 'meaning'), rows)}")
    return "\n\n".join(parts)


LINKED = ("data.masks", "data.maps", "data.keypoints", "data.seed", "data.few_canvases", "data.channels")
"""Settings that follow from others; the command line does not take them."""


def _settings_of(kind: type, prefix: str, groups: set[type]) -> Iterator[tuple[str, ...]]:
    """Yield the settings of a dataclass, or of a class by its constructor."""
    meanings = _meanings(kind)
    for name, parameter in inspect.signature(kind).parameters.items():
        key, annotation = f"{prefix}.{name}", str(parameter.annotation)
        if key in LINKED or parameter.annotation in groups:
            continue
        if isinstance(parameter.annotation, type):
            annotation = parameter.annotation.__name__
        annotation = re.sub(r"\b(?:typing|collections\.abc|detection\.[\w.]+)\.", "", annotation)
        yield f"`{key}`", f"`{_default(kind, name, parameter)}`", f"`{annotation}`", meanings.get(name, "")


def _default(kind: type, name: str, parameter: inspect.Parameter) -> str:
    default = parameter.default
    if hasattr(kind, "__dataclass_fields__"):
        field = next(field for field in fields(kind) if field.name == name)
        if field.default_factory is not MISSING:
            default = field.default_factory()
    if default is inspect.Parameter.empty:
        return "required"
    if default is None:
        return "null"
    if hasattr(default, "__dataclass_fields__"):
        return "{" + ", ".join(f"{key}: {value}" for key, value in vars(default).items()) + "}"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _meanings(kind: type) -> dict[str, str]:
    """Return the docstring of each setting: below a field of a dataclass, or in ``Args`` of a constructor."""
    from docstring_parser import parse

    found = {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for text in (kind.__doc__, kind.__init__.__doc__)  # type: ignore[misc]
        for parameter in parse(text or "").params
    }
    for base in (base for base in reversed(kind.__mro__) if hasattr(base, "__dataclass_fields__") or base is kind):
        (tree,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[getattr(field.target, "id", "")] = " ".join(str(text.value.value).split())
    return found


def commands() -> str:
    """Return the help text of each command, and of the commands below it."""
    from detection.commands.main import COMMANDS, parser_of

    os.environ["COLUMNS"] = "100"  # argparse folds lines at this width
    parts = []
    for name, does in COMMANDS.items():
        parser = parser_of(name)
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parsers = {name: parser} | {f"{name} {word}": one for action in below for word, one in action.choices.items()}
        parts.append(f"## rcnn {name}\n\n{does[0].upper()}{does[1:]}.")
        parts += [f"```text\n{one.format_help().rstrip()}\n```" for one in parsers.values()]
    return "\n\n".join(parts)


TABLES: dict[str, Callable[[], str]] = {
    "configs": configs,
    "config-parts": config_parts,
    "models-torchvision": models("torchvision"),
    "models-detectron2": models("detectron2"),
    "models-mmdetection": models("mmdetection"),
    "backbones": backbones,
    "settings": settings,
    "commands": commands,
}
