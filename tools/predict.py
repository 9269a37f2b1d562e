"""Detect objects in images and draw them: ``tools/predict.py CHECKPOINT IMAGE...``."""

from detection.inference import main

if __name__ == "__main__":
    main()
