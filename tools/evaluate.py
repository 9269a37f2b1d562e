"""Score a detector or result files: ``tools/evaluate.py CHECKPOINT --annotations FILE --images FOLDER``."""

from detection.report.command import main

if __name__ == "__main__":
    main()
