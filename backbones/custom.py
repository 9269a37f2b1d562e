"""A custom backbone by its import path, ``my_lab.nets.MyNet``.

Importing runs code, so a name must come from the user: the caller, the command line or the user's own config.
"""

import inspect
import sys
from importlib import import_module
from typing import Any, get_type_hints

from backbones.base import Backbone


def imported(path: str) -> Backbone:
    """Import a subclass of :class:`Backbone`, or a function that returns one, and call it without arguments.

    Raises:
        ValueError: the path names nothing, a part of the standard library, or something else.
    """
    module, _, name = path.rpartition(".")
    top = module.split(".")[0]
    if top in sys.stdlib_module_names:
        raise ValueError(f"backbone {path}: the standard library has no backbones; give the import path of your own")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"backbone {path}: {error}; it must be importable, as in `python -c 'import {module}'`"
        ) from error
    _check(found, path)
    backbone = found()
    if not isinstance(backbone, Backbone):
        raise ValueError(f"backbone {path} gives a {type(backbone).__name__}, not a backbones.Backbone")
    return backbone


def _check(found: Any, path: str) -> None:
    """Reject what cannot give a backbone before it is called."""
    if inspect.isclass(found):
        if not issubclass(found, Backbone):
            raise ValueError(f"backbone {path} is a class {found.__name__}, not a subclass of backbones.Backbone")
        return
    if not inspect.isfunction(found) or found.__module__.split(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"backbone {path} is a {type(found).__name__}; give a class or a function of your own")
    try:
        returned = get_type_hints(found).get("return", Backbone)
    except (NameError, TypeError):  # a hint that exists for type checkers alone
        returned = Backbone
    if not (inspect.isclass(returned) and issubclass(returned, Backbone)):
        raise ValueError(f"backbone {path} returns {returned}, not a backbones.Backbone")
