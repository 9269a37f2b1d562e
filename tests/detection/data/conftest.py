"""The small data set, for all tests of this folder."""

from tests.support.coco_files import _write_dataset, small  # noqa: F401
