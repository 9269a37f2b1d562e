"""Find the annotations and images of an evaluation."""

from pathlib import Path

from detection.formats.recognise import open_data


def annotations_and_images(
    data: str | Path | None, split: str, annotations: Path | None, images: Path | None
) -> tuple[Path, Path | None]:
    """Return the annotation file and the image folder, of a data set or as they are given.

    Args:
        data: a data set of any known form, instead of the other two.
        split: which images of the data set.

    Raises:
        ValueError: both are given, or neither, or the data set cannot be used.
    """
    if data is None:
        if annotations is None:
            raise ValueError("say what to score against: --data PATH, or --annotations FILE --images DIR")
        return annotations, images
    if annotations is not None or images is not None:
        raise ValueError("--data names annotations and images; leave --annotations and --images out")
    found = open_data(str(data), need=(split,))
    for line in found.lines:
        print(line)
    part = found.parts[split]
    return part.annotations, part.images
