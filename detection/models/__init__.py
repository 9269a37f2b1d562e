"""Faster R-CNN and Mask R-CNN, part by part; :mod:`detection.models.rcnn` is where to begin."""
