import sys

import pytest

from detection.lazy import lazy_names


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that offers ``value`` of its module ``inner``, which it does not import at once."""
    folder = tmp_path / "lazy_package"
    folder.mkdir()
    (folder / "inner.py").write_text("value = 3\nother = 4\n")
    (folder / "__init__.py").write_text(
        "from detection.lazy import lazy_names\n"
        "here = 1\n"
        "__getattr__, __dir__ = lazy_names(__name__, {'value': 'lazy_package.inner'})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import lazy_package

    yield lazy_package
    for name in ("lazy_package", "lazy_package.inner"):
        sys.modules.pop(name, None)


def test_a_name_is_imported_at_its_first_use(package):
    assert "lazy_package.inner" not in sys.modules
    assert package.value == 3
    assert "lazy_package.inner" in sys.modules


def test_dir_lists_the_names_that_are_not_imported_yet(package):
    assert {"value", "here"} <= set(dir(package))


def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="module 'lazy_package' has no attribute 'other'"):
        _ = package.other


def test_both_functions_belong_to_one_package():
    get, names = lazy_names("detection.lazy", {"half": "math"})
    assert "half" in names()
    with pytest.raises(AttributeError):
        get("half")
