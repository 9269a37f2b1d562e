"""Find the file of an image when the annotations spell its name differently.

Annotation tools write names as URLs or upload paths, with percent codes, backslashes, other capitals or another Unicode
form, or with a folder of another machine. The toolkit accepts such a name if exactly one file in the image folder
matches it. The result is always in a listing of this folder, so a name can never lead outside it.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

FORM = "file names in another Unicode form than on the disk (found)"
CAPITALS = "file names with other capitals than on the disk (found)"
SLASHES = "file names with backslashes (found)"
ENDS = "file names with a URL, an upload path or another folder (found by the end of the path)"
FOUND = (FORM, CAPITALS, SLASHES, ENDS)
"""The kinds of difference between a name and its file; a report counts each."""

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
_ANY_UPLOAD = re.compile(r"^[0-9a-zA-Z]{1,36}-(?=.)")
_MOST_COMPARED = 20_000


def leads_out(name: str) -> bool:
    """Return whether a name is an absolute path of any operating system, or contains ``..``."""
    given, slashed = Path(name), Path(name.replace("\\", "/"))
    drive = re.match(r"[A-Za-z]:[\\/]", name) is not None
    return given.is_absolute() or bool(given.drive) or drive or slashed.is_absolute() or ".." in slashed.parts


def image_path(root: Path, name: str) -> Path | None:
    """Return the file with this name below a folder, or the only file that matches it, or None."""
    path = None if leads_out(name) else root / name
    return path if path is not None and os.path.exists(path) else find_file(root, name)[0]


def find_file(root: Path, name: str) -> tuple[Path | None, str]:
    """Return the only file below a folder that matches a name, and how they differ.

    A name with ``..`` matches nothing.

    Returns:
        The file, or None if no file or several files match; and one of :data:`FOUND`.
    """
    fitting, kind = _fitting(str(root), name)
    return (root / fitting[0] if len(fitting) == 1 else None), kind


def advice(root: Path, name: str) -> str:
    """Return a hint for a name that matches no file, or several files."""
    fitting, _ = _fitting(str(root), name)
    if fitting:
        return f"{len(fitting)} files match it, such as {fitting[0]!a} and {fitting[1]!a}; name one of them"[:200]
    files = listing(str(root)).files
    if not files:
        return "that folder is empty"
    wanted = next(iter(_paths(name)), name).rpartition("/")[2]
    short = {file.rpartition("/")[2]: file for file in islice(files, _MOST_COMPARED)}
    nearest = difflib.get_close_matches(wanted[:200], list(short), 1, 0.6)
    some = f"the most similar name is {short[nearest[0]]!a}" if nearest else f"the folder contains {files[0]!a}"
    tried = "no file matches with other Unicode forms, capitals, percent codes or folders either"
    return f"{tried}; {some[:120]}"


@lru_cache(maxsize=8)
def listing(root: str) -> "Listing":
    """Return all files below a folder; the result is cached until :func:`forget`."""
    return Listing(root)


def forget() -> None:
    """Clear the cache of :func:`listing`, because files may have been added."""
    listing.cache_clear()


class Listing:
    """The files below a folder; it does not follow symbolic links to folders."""

    def __init__(self, root: str) -> None:
        self.files: list[str] = []
        """Relative paths, with forward slashes."""
        self.named: dict[str, list[str]] = {}
        """Relative paths by file name, the name in lower case and Unicode form NFC."""
        self.folders: set[str] = set()
        """Names of the direct subfolders, in lower case and Unicode form NFC."""
        for folder, folders, names in os.walk(root):
            folders.sort()
            if folder == root:
                self.folders = {_folded(name) for name in folders}
            inside = os.path.relpath(folder, root).replace(os.sep, "/")
            for name in sorted(names):
                file = name if inside == "." else f"{inside}/{name}"
                self.files.append(file)
                self.named.setdefault(_folded(name), []).append(file)


def _fitting(root: str, name: str) -> tuple[list[str], str]:
    """Return the files that match equally well, and how they differ from the name."""
    slashed, found = name.replace("\\", "/").removeprefix("./"), listing(root)
    for path in _paths(name):
        same_end = found.named.get(_folded(path.rpartition("/")[2]), [])
        if _folded(path.partition("/")[0]) in found.folders:  # so the name is relative to this folder
            same_end = [file for file in same_end if file.count("/") >= path.count("/")]
        for way, kind in ((_as_it_is, ENDS), (_composed, FORM), (_folded, CAPITALS)):  # the closest spelling wins
            if shared := {file: parts for file in same_end if (parts := _shared(way(file), way(path)))}:
                most = max(shared.values())  # the longest common end is the best match
                near = [file for file, parts in shared.items() if parts == most]
                return near, SLASHES if near == [slashed] else kind
    return [], ENDS


def _shared(file: str, path: str) -> int:
    """Return the number of common path components if one path ends with the other; else 0."""
    one, other = file.split("/"), path.split("/")
    shared = min(len(one), len(other))
    return shared if one[-shared:] == other[-shared:] else 0


def _as_it_is(text: str) -> str:
    return text


def _paths(name: str) -> Iterator[str]:
    """Yield the relative paths that a name may mean, the most likely first."""
    seen = set()
    for text in _readings(name.replace("\\", "/")):
        for path in (text, unquote(text)):
            plain = re.sub(r"^[A-Za-z]:/", "", path.replace("\\", "/")).lstrip("/")
            parts = [part for part in plain.split("/") if part not in ("", ".")]
            if not parts or ".." in parts or "\0" in plain:
                continue
            ends = [parts[-1]]
            uploaded = _ANY_UPLOAD if "upload" in parts[:-1] else _UPLOAD
            ends += [uploaded.sub("", parts[-1])]
            for end in ends:
                whole = "/".join([*parts[:-1], end])
                if whole not in seen:
                    seen.add(whole)
                    yield whole


def _readings(name: str) -> Iterator[str]:
    """Yield the name itself, and the path inside it if it is a URL."""
    yield name
    try:
        url = urlsplit(name)
    except ValueError:  # for example an unbalanced bracket, as of an IPv6 address
        return
    if url.scheme or url.query:
        yield from parse_qs(url.query).get("d", [])  # Label Studio: /data/local-files/?d=folder/image.jpg
        yield url.path


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
