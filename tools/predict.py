"""Detect objects in images and videos: ``tools/predict.py CHECKPOINT IMAGE...``."""

from detection.memory import begin_without_crumbs

if __name__ == "__main__":
    begin_without_crumbs()
    from detection.predict_tool.command import main

    main()
