"""COCO's formats: one reader and one set of checks for training, evaluation and the doctor.

``read`` gives a file's lists, ``checks`` and ``segmentation`` check their entries, ``problems`` counts what was wrong.
``annotations`` packs all of it for training; ``detection.evaluation.ground_truth`` makes it ready to be scored.
"""
