"""Imports follow the layers of the packages; the test reads the sources and imports nothing."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = {
    "backbones": 0,
    "backbones.fast": 1,
    "detection.categories": 1,
    "detection.documents": 1,
    "detection.foreign": 1,
    "detection.home": 1,
    "detection.lazy": 1,
    "detection.memory": 1,
    "detection.quiet": 1,
    "detection.shadowed": 1,
    "detection.structures": 1,
    "detection.wording": 1,
    "detection.yaml_values": 1,
    "detection.ops": 2,
    "detection.coco": 2,
    "detection.fast.pasting": 2,
    "detection.fast.kernels": 2,
    "detection.models": 3,
    "detection.data": 3,
    "detection.evaluation": 3,
    "detection.fast": 4,
    "detection.engine": 5,
    "detection.cli": 8,
    "detection.former": 8,
    "detection.commands": 7,
    "detection.scoring": 8,
    "detection.training": 8,
    "detection.__main__": 8,
    "tools": 8,
}
"""By the longest prefix. Any other module of ``detection`` is a command, on floor 5."""

PLAIN = ("backbones", "detection.ops", "detection.models")
"""These say what is computed. How fast is the matter of ``fast``, which they must not know."""

QUESTIONS = ("device.type", "is_cuda", "is_compiling", "environ", "get_cpu_capability", "_hooks", "usable(")
"""What a plain file must not ask."""

DOORS = {"detection.models.usable": ("detection.inference", "detection.scoring")}
"""Methods for users that lead up, each to the packages named; they import it when they are called."""

SIBLINGS = ("detection.models", "detection.data", "detection.evaluation")
"""These share a floor and must not know one another."""

HOMES = {
    "lightning": ("detection.engine", "detection.cli"),
    "albumentations": ("detection.data",),
    "timm": ("backbones",),
}
"""The only places that may import these."""


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def floor(module: str) -> int:
    if module == "detection":
        return 8  # the public face, which offers names of all floors
    known = [prefix for prefix in FLOORS if within(module, prefix)]
    return FLOORS[max(known, key=len)] if known else 5


def imports(source: str, exists: set[str]) -> set[str]:
    """Modules that a source imports, wherever in the file; ``from a import b`` is a.b where that is a module."""
    found = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name != "detection" or uses_the_face(tree)}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in exists:
                    found.add(inner)
                elif not alias.name.startswith("__"):
                    found.add(str(node.module))
    return found


def uses_the_face(tree: ast.AST) -> bool:
    """Takes more from ``detection`` than its ``__version__``, which is no dependency."""
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "detection"
        and not node.attr.startswith("__")
        for node in ast.walk(tree)
    )


def offences(module: str, imported: set[str]) -> list[str]:
    wrong = []
    for other in sorted(imported):
        for name, homes in HOMES.items():
            if within(other, name) and not any(within(module, home) for home in homes):
                wrong.append(f"{module} imports {other}, which belongs to {', '.join(homes)}")
        if other.split(".")[0] not in {"backbones", "detection", "tools"}:
            continue
        if module in DOORS and any(within(other, door) for door in DOORS[module]):
            continue
        if floor(other) > floor(module):
            wrong.append(f"{module} imports {other} (floor {floor(other)}) from floor {floor(module)}")
        for sibling in SIBLINGS:
            if within(other, sibling) and floor(module) == 3 and not within(module, sibling):
                wrong.append(f"{module} imports its sibling {other}; what they share belongs to detection.structures")
    return wrong


def modules() -> dict[str, Path]:
    found = {}
    for package in ("backbones", "detection", "tools"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@pytest.mark.parametrize("module", [name for name in MODULES if name != "detection"])
def test_imports_go_down(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    assert not offences(module, imports(source, set(MODULES)))


def is_plain(module: str) -> bool:
    return any(within(module, package) for package in PLAIN) and not within(module, "backbones.fast")


@pytest.mark.parametrize("module", [name for name in MODULES if is_plain(name)])
def test_plain_files_neither_know_nor_ask_how_fast(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    assert not [other for other in imports(source, set(MODULES)) if "fast" in other.split(".")]
    assert not [question for question in QUESTIONS if question in source]


def test_the_face_imports_nothing_until_asked() -> None:
    assert eager("detection") <= {"importlib", "typing", "detection.former", "detection.lazy"}
    for module in ("detection.former", "detection.lazy"):
        assert all(name.split(".")[0] in sys.stdlib_module_names for name in eager(module))


def eager(module: str) -> set[str]:
    """What a module imports when it is imported itself."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name for node in found for name in imports(ast.unparse(node), set(MODULES))}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("detection.ops.nms", "from detection.models import rpn", "detection.models.rpn (floor 3) from floor 2"),
        ("detection.ops.nms", "from detection import mask_rcnn", "detection (floor 8) from floor 2"),
        ("detection.engine.module", "import detection\n\ndetection.mask_rcnn()", "(floor 8) from floor 5"),
        ("detection.models.rpn", "def f():\n    import detection.data.collate", "imports its sibling"),
        ("backbones.resnet", "import detection.structures", "(floor 1) from floor 0"),
        ("detection.models.rpn", "from lightning.pytorch import LightningModule", "belongs to detection.engine"),
    ],
)
def test_climbing_is_noticed(module: str, source: str, expected: str) -> None:
    exists = {"detection.models.rpn", "detection.data.collate", "detection.structures"}
    assert any(expected in offence for offence in offences(module, imports(source, exists)))
