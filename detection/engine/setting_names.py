"""Read the names of the settings of a training from the source of their classes.

Importing these classes would take as long as importing PyTorch and Lightning, and delay errors about misspelt names.
"""

import ast
import importlib.util
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2]
"""Folder of the packages ``detection`` and ``backbones``."""

Place = tuple[str, str]
"""The module and the name of a class."""

GROUPS: dict[str, Place] = {
    "model": ("detection.engine.module", "DetectionModule"),
    "data": ("detection.engine.data_config", "DataConfig"),
    "run": ("detection.engine.run", "RunConfig"),
    "trainer": ("lightning.pytorch.trainer.trainer", "Trainer"),
}
OF_CLASSIFIERS: dict[str, Place] = {
    "model": ("detection.engine.classify.module", "ClassificationModule"),
    "data": ("detection.engine.classify.data_config", "LabelledConfig"),
}
"""The groups of a classifier's training that differ."""
OF_PRETRAINING: dict[str, Place] = {
    "model": ("detection.engine.pretrain.module", "PretrainingModule"),
    "data": ("detection.engine.classify.data_config", "UnlabelledConfig"),
}
"""The groups of a pretraining without labels that differ."""
KINDS = (GROUPS, OF_CLASSIFIERS, OF_PRETRAINING)


def wrong_name(name: str) -> bool:
    """Return whether a dotted name is certainly no setting.

    Below a plain value everything may be right; this is left to the parser.

    Example:
        >>> wrong_name("model.backbone.name"), wrong_name("model.backbone.nmae"), wrong_name("trainer.nmae")
        (False, True, True)
    """
    return all(_is_wrong(name, place) for place in _places(name))


def _is_wrong(name: str, place: Place | None) -> bool:
    """Return whether a name is certainly no setting below the class of its group."""
    for part in name.split(".")[1:]:
        settings = None if place is None else settings_of(place)
        if settings is None or part == "help":  # the parser can explain a group
            return False
        if part not in settings:
            return True
        place = settings[part]
    return False


def all_names() -> list[str]:
    """Return the full names of all settings."""
    every = [name for kind in KINDS for pair in kind.items() for name in _below(*pair)]
    return list(dict.fromkeys(every))


def _below(prefix: str, place: Place) -> list[str]:
    names = []
    for name, inner in (settings_of(place) or {}).items():
        names.append(f"{prefix}.{name}")
        names += _below(f"{prefix}.{name}", inner) if inner else []
    return names


@cache
def settings_of(place: Place) -> dict[str, Place | None] | None:
    """Return the settings of a class: the fields of a dataclass, or else the arguments of its constructor.

    Returns:
        For each name the class that has its settings, or None for a plain value. None if the class cannot be read.
    """
    found = _annotations(place)
    return None if found is None else {name: _class_in(*annotated) for name, annotated in found.items()}


def needs_settings(name: str) -> bool:
    """Return whether a dotted name is a group of settings for which null is no value in any kind of training.

    Example:
        >>> needs_settings("model.backbone"), needs_settings("model.mask_head"), needs_settings("model.backbone.name")
        (True, False, False)
    """
    allowed = [_allows_null(name, place) for place in _places(name)]
    return False in allowed and True not in allowed


def _places(name: str) -> list[Place | None]:
    """Return the classes of the group of a name, one for each kind of models; [None] for an unknown group."""
    group = name.split(".")[0]
    return [kind[group] for kind in KINDS if group in kind] or [None]


def _allows_null(name: str, place: Place | None) -> bool | None:
    """Return whether null is a value of a group below the class of its first part; None if the name is no group."""
    nullable, parts = False, name.split(".")[1:]
    for part in parts:
        found = (_annotations(place) if place else None) or {}
        if part not in found:
            return None
        place, nullable = _class_in(*found[part]), _allows_none(found[part][0])
    return None if place is None else nullable


Annotated = tuple[ast.expr | None, ast.Module, str]
"""An annotation, with the source and the name of the module where it stands."""


@cache
def _annotations(place: Place) -> dict[str, Annotated] | None:
    """Return the annotations of the settings of a class; None if the class cannot be read."""
    module, name = place
    tree = _tree(module)
    node = None if tree is None else next((one for one in _classes(tree) if one.name == name), None)
    if tree is None or node is None:
        return None
    if not node.decorator_list:
        inits = [one.args for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        return {one.arg: (one.annotation, tree, module) for args in inits for one in (*args.args[1:], *args.kwonlyargs)}
    found: dict[str, Annotated] = {}
    for base in node.bases:
        inherited = _class_in(base, tree, module)
        if inherited is None:
            return None
        found |= _annotations(inherited) or {}
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    return found | {one.target.id: (one.annotation, tree, module) for one in fields}  # type: ignore[union-attr]


def _allows_none(annotation: ast.expr | None) -> bool:
    """Return whether an annotation such as ``MaskHeadConfig | None`` allows None."""
    parts = [] if annotation is None else ast.walk(annotation)
    return any(isinstance(one, ast.Constant) and one.value is None for one in parts)


def _class_in(annotation: ast.expr | None, tree: ast.Module, module: str) -> Place | None:
    """Return the class of settings that an annotation such as ``MaskHeadConfig | None`` names."""
    places = {one.name: (module, one.name) for one in _classes(tree)}
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom):
            places |= {one.asname or one.name: (str(statement.module), one.name) for one in statement.names}
    names = [] if annotation is None else [one.id for one in ast.walk(annotation) if isinstance(one, ast.Name)]
    return next((places[name] for name in names if name in places and settings_of(places[name])), None)


def _classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [one for one in tree.body if isinstance(one, ast.ClassDef)]


@cache
def _tree(module: str) -> ast.Module | None:
    """Return the source of a module of this toolkit or of Lightning."""
    package, *parts = module.split(".")
    found = importlib.util.find_spec(package) if package == "lightning" else None
    place = (Path(found.origin).parent if found and found.origin else SOURCES / package).joinpath(*parts)
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None
