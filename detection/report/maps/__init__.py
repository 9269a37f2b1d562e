"""Reports of semantic and panoptic maps: what ``rcnn evaluate`` and ``rcnn compare`` do for a semantic head."""
