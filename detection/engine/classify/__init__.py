"""Training of image classifiers with the callbacks, checkpoints and run folder of the detectors."""
