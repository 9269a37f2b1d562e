import pytest

from detection.data.errors import DataError, first_line


def test_the_first_line_of_an_error_or_its_type():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(MemoryError()) == "MemoryError"


def test_a_message_names_the_worker_that_reported_it_and_else_none():
    assert DataError("a.png: is empty; replace the file").plain_message() == "a.png: is empty; replace the file"
    text = (
        "Caught DataError in DataLoader worker process 3.\nOriginal Traceback (most recent call last):\n  ...\n"
        "detection.data.errors.DataError: a.png: is empty; replace the file\n"
    )
    assert DataError(text).plain_message() == "a.png: is empty; replace the file (reported by data-loader worker 3)"


def test_a_worker_s_error_is_raised_again_with_its_message():
    with pytest.raises(DataError, match="one"):
        raise type(DataError("one"))("one")
