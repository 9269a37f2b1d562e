"""Annotations of other tools to COCO's format and back."""
