"""From COCO-format files to batches; :mod:`detection.data.dataset` is where to begin."""
