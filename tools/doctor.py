"""What is wrong with a data set, and does a detector fit it: ``tools/doctor.py --config NAME --data.root FOLDER``."""

from detection.doctor.command import main

if __name__ == "__main__":
    main()
