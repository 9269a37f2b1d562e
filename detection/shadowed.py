"""Other folders and packages named ``detection`` or ``backbones``, which Python would import instead."""

from importlib.util import find_spec
from pathlib import Path


def hidden_by_another() -> str | None:
    """Return a message if another ``detection`` or ``backbones`` stands before ours on the path, else None."""
    here = Path(__file__).resolve().parents[1]
    for name in ("detection", "backbones"):
        spec = find_spec(name)
        origin = None if spec is None else spec.origin
        if origin is None or Path(origin).resolve().parents[1] != here:
            return f"the package {name} beside {here} is hidden by {origin}; rename that one, or run from elsewhere"
    return None
