"""COCO's formats."""
