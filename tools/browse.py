"""A data set before and after augmentation: ``tools/browse.py --config NAME --data.root FOLDER``."""

from detection.browse import main

if __name__ == "__main__":
    main()
