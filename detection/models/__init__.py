"""The parts of Faster R-CNN and Mask R-CNN. Start reading at :mod:`detection.models.rcnn`."""
