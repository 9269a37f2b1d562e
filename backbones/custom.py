"""Custom backbones, given by an import path such as ``my_lab.nets.MyNet``.

An import runs code. So the path must come from the user: the caller, the command line or the user's own config.
"""

import inspect
import sys
from importlib import import_module
from typing import Any, get_type_hints

from backbones.base import Backbone


def imported(path: str) -> Backbone:
    """Import a subclass of :class:`Backbone`, or a function that returns one, and call it without arguments.

    Raises:
        ValueError: the path cannot be imported, belongs to the standard library, or does not lead to a backbone.
    """
    module, _, name = path.rpartition(".")
    top = module.split(".")[0]
    if top in sys.stdlib_module_names:
        raise ValueError(
            f"backbone {path}: the standard library has no backbones; give the import path of your own class"
        )
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"backbone {path}: {error}; make sure that `python -c 'import {module}'` works") from error
    _check(found, path)
    backbone = found()
    if not isinstance(backbone, Backbone):
        raise ValueError(f"backbone {path} returned a {type(backbone).__name__}; it must return a backbones.Backbone")
    return backbone


def _check(found: Any, path: str) -> None:
    """Raise an error, before the call, for an object that cannot return a backbone."""
    if inspect.isclass(found):
        if not issubclass(found, Backbone):
            raise ValueError(f"backbone {path}: class {found.__name__} must be a subclass of backbones.Backbone")
        return
    if not inspect.isfunction(found) or found.__module__.split(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"backbone {path} is a {type(found).__name__}; give a class or a function of your own")
    try:
        returned = get_type_hints(found).get("return", Backbone)
    except (NameError, TypeError):  # the type hint exists for type checkers only
        returned = Backbone
    if not (inspect.isclass(returned) and issubclass(returned, Backbone)):
        raise ValueError(f"backbone {path} returns {returned}; it must return a backbones.Backbone")
