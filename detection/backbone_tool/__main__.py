"""``python -m detection.backbone_tool``, as ``tools/backbone.py``."""

from detection.backbone_tool.command import main

main()
