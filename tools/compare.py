"""Is one evaluation better than another: ``tools/compare.py evaluation_a evaluation_b``."""

from detection.report.compare import main

if __name__ == "__main__":
    main()
