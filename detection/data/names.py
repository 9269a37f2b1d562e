"""Where the file of an image is, though its name in the annotations is written in another way.

Tools write names as URLs, upload paths, with percent codes, with capitals or backslashes of another system, in another
Unicode form, or below the folder of another machine. Such a name stands for a file if exactly one in the image folder
fits. It never leads out of that folder: only names that a listing of it has are taken.
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
ENDS = "file names with a URL, an upload path or another folder (found by the end)"
FOUND = (FORM, CAPITALS, SLASHES, ENDS)
"""What a report counts, by how the names differ."""

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
_ANY_UPLOAD = re.compile(r"^[0-9a-zA-Z]{1,36}-(?=.)")
_MOST_COMPARED = 20_000


def leads_out(name: str) -> bool:
    """Whether a name is absolute, on any system, or climbs."""
    given, slashed = Path(name), Path(name.replace("\\", "/"))
    drive = re.match(r"[A-Za-z]:[\\/]", name) is not None
    return given.is_absolute() or bool(given.drive) or drive or slashed.is_absolute() or ".." in slashed.parts


def image_path(root: Path, name: str) -> Path | None:
    """The file below a folder that has the name, or the one that fits it; None if there is none."""
    path = None if leads_out(name) else root / name
    return path if path is not None and os.path.exists(path) else find_file(root, name)[0]


def find_file(root: Path, name: str) -> tuple[Path | None, str]:
    """The one file below a folder that a name fits, and how they differ, as one of :data:`FOUND`; None if not one.

    A name that climbs fits nothing.
    """
    fitting, kind = _fitting(str(root), name)
    return (root / fitting[0] if len(fitting) == 1 else None), kind


def advice(root: Path, name: str) -> str:
    """What may help with a name that fits no file, or several."""
    fitting, _ = _fitting(str(root), name)
    if fitting:
        return f"{len(fitting)} files fit it, {fitting[0]!a} and {fitting[1]!a}; name one of them"[:200]
    files = listing(str(root)).files
    if not files:
        return "that folder is empty"
    wanted = next(iter(_paths(name)), name).rpartition("/")[2]
    short = {file.rpartition("/")[2]: file for file in islice(files, _MOST_COMPARED)}
    nearest = difflib.get_close_matches(wanted[:200], list(short), 1, 0.6)
    some = f"the nearest name there is {short[nearest[0]]!a}" if nearest else f"the folder has {files[0]!a}"
    tried = "looked for it in other Unicode forms and capitals, without percent codes, and by its end"
    return f"{tried}; {some[:120]}"


@lru_cache(maxsize=8)
def listing(root: str) -> "Listing":
    """All files of a folder; kept until :func:`forget`."""
    return Listing(root)


def forget() -> None:
    """Look into folders again, as files may have come."""
    listing.cache_clear()


class Listing:
    """The files below a folder, by their names without capitals in one Unicode form. Links to folders are left out."""

    def __init__(self, root: str) -> None:
        self.files: list[str] = []
        """Relative, with slashes."""
        self.named: dict[str, list[str]] = {}
        self.folders: set[str] = set()
        """In the folder itself."""
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
    """Files that fit equally well, and how they differ from the name."""
    slashed, found = name.replace("\\", "/").removeprefix("./"), listing(root)
    for path in _paths(name):
        same_end = found.named.get(_folded(path.rpartition("/")[2]), [])
        if _folded(path.partition("/")[0]) in found.folders:  # so the name's folders mean those of here
            same_end = [file for file in same_end if file.count("/") >= path.count("/")]
        for way, kind in ((_as_it_is, ENDS), (_composed, FORM), (_folded, CAPITALS)):  # the nearest spelling decides
            if shared := {file: parts for file in same_end if (parts := _shared(way(file), way(path)))}:
                most = max(shared.values())  # of several ends, the longest says most
                near = [file for file, parts in shared.items() if parts == most]
                return near, SLASHES if near == [slashed] else kind
    return [], ENDS


def _shared(file: str, path: str) -> int:
    """How many parts they share, if one is the end of the other; else 0."""
    one, other = file.split("/"), path.split("/")
    shared = min(len(one), len(other))
    return shared if one[-shared:] == other[-shared:] else 0


def _as_it_is(text: str) -> str:
    return text


def _paths(name: str) -> Iterator[str]:
    """Relative paths that a name may stand for, the likeliest first."""
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
    """A name as it is, and what a URL in it points to."""
    yield name
    try:
        url = urlsplit(name)
    except ValueError:  # half an IPv6 address
        return
    if url.scheme or url.query:
        yield from parse_qs(url.query).get("d", [])  # Label Studio: /data/local-files/?d=folder/image.jpg
        yield url.path


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
