"""Annotations of other tools to COCO's format and back: ``tools/convert.py voc2coco ANNOTATIONS instances.json``."""

from detection.formats.command import main

if __name__ == "__main__":
    main()
