"""Write numbers with nouns in singular or plural: ``1 image``, ``2 images``."""

import re

NOUNS = {
    **{"annotations": "annotation", "boxes": "box", "categories": "category", "crowds": "crowd", "files": "file"},
    **{"ids": "id", "images": "image", "masks": "mask", "names": "name", "objects": "object", "outlines": "outline"},
    **{"parts": "part", "polygons": "polygon", "rectangles": "rectangle", "splits": "split", "values": "value"},
    **{"RLEs": "RLE", "keypoints": "keypoint"},
}
"""Singular forms of the nouns that :func:`of_kind` accepts, by their plural."""

_NOUN = re.compile(rf"\b({'|'.join(NOUNS)})\b")
_FOR_ONE = {
    **{"that are": "that is", "that occur": "that occurs", "that reach": "that reaches", "that share": "that shares"},
    **{"their": "its"},
}


def plural(count: int, one: str, more: str | None = None, form: str = "") -> str:
    """Return a count with its noun, in singular for 1 and in plural for other numbers.

    Args:
        count: the number.
        one: the noun in singular, optionally with words that follow it, such as a verb.
        more: the same in plural; None: add the ending of a regular noun to ``one``.
        form: format of the number: ``","`` separates thousands.

    Example:
        >>> plural(1, "class"), plural(2, "class"), plural(0, "image has", "images have")
        ('1 class', '2 classes', '0 images have')
    """
    return f"{count:{form}} {one if count == 1 else more or _plural_of(one)}"


def of_kind(count: int, kind: str) -> str:
    """Return a count with a phrase in plural, which the function converts to singular for 1.

    Args:
        count: the number.
        kind: a phrase with one of :data:`NOUNS`; words in brackets do not change.

    Example:
        >>> of_kind(1, "boxes that are outside their image (dropped)")
        '1 box that is outside its image (dropped)'
    """
    if count != 1:
        return f"{count} {kind}"
    said, bracket, rest = kind.partition("(")
    said = _NOUN.sub(lambda found: NOUNS[found[0]], said, count=1)
    for several, one in _FOR_ONE.items():
        said = re.sub(rf"\b{several}\b", one, said)
    return f"1 {said}{bracket}{rest}"


def _plural_of(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if re.search("[^aeiou]y$", noun) else noun + "s"
