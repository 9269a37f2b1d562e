"""Score a detector or result files: ``tools/evaluate.py CHECKPOINT --annotations FILE --images FOLDER``."""

from detection.memory import begin_without_crumbs

if __name__ == "__main__":
    begin_without_crumbs()
    from detection.report.command import main

    main()
