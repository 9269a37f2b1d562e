"""Detections of images in their own pixels: one, several views of one, tiles of a large one."""
