"""Load COCO-format data and make batches. Start reading at :mod:`detection.data.dataset`."""
