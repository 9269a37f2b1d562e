"""Detect objects in images and videos: ``tools/predict.py CHECKPOINT IMAGE...``."""

from detection.predict_tool.command import main

if __name__ == "__main__":
    main()
