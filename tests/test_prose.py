"""Plain English in documents, docstrings and help texts: short sentences, and the words of the field."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).resolve().parents[1]

LONGEST = 30
"""Words of a sentence at most; the aim is 25."""
MEAN = 18
"""Words of a sentence on average, in README.md and on the how-to pages."""

INSTEAD = {
    r"processors?": "CPU",
    r"refus(?:e|es|ed|ing|al|als)": "rejects, raises",
    r"tells?|told|telling": "logs, prints, reports, names",
    r"(?:go|goes|going|went|gone) on": "continue, resume",
    r"mend(?:s|ed|ing)?": "repair, fix",
    r"mirror(?:s|ed|ing)?": "flip horizontally",
    r"looks? longer|look(?:s|ed)? at squares": "test-time augmentation, tiles",
    r"ask(?:s|ed)? (?:the|a) (?:host|GPU|CPU)|(?:GPU|host|device) is asked": "synchronises with the GPU",
    r"drawn again": "bootstrap samples",
    r"drawn (?:shapes|data set|data sets)": "synthetic shapes",
    r"of ours|one's own": "the toolkit's, custom, your own",
    r"shar(?:e|es|ed) out": "shard, distribute",
    r"pictures?": "image, plot",
    r"first rank": "rank 0",
    r"crumbs?": "heap fragmentation",
    r"like shapes": "aspect-ratio grouping",
    r"floors?": "layers of imports",
    r"(?:is|are) (?:not finite|no numbers?)|not a number": "NaN or Inf",
    r"anew": "again",
    r"so many": "the number of ..., N",
    r"without a word": "silently",
}
"""Words that a reader must decode, and what to write. Names in code style are free."""

DOCUMENTS = sorted(
    ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"]
    + [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
)
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("backbones", "detection")
    for path in (ROOT / package).rglob("*.py")
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_plain(name: str) -> None:
    assert not problems(name)


def test_docstrings_and_help_texts_are_plain() -> None:
    found = [problem for name in SOURCES for problem in problems(name)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name == "README.md" or "/how-to/" in name])
def test_task_pages_have_short_sentences(name: str) -> None:
    lengths = [words(sentence) for sentence in sentences(name)]
    assert mean(lengths) <= MEAN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two. Three `four five`!\n\nSix", ["One two.", "Three X!", "Six"]),
        ("```bash\nnot prose\n```\n- a [link](to/it.md)\n- two\n", ["a link", "two"]),
        ("# Title\n\n| a | cell |\n\nHe et al. 2015 say so.", ["He et al. 2015 say so."]),
    ],
)
def test_sentences_are_found(text: str, expected: list[str]) -> None:
    assert list(split(prose(text))) == expected


def test_long_sentences_and_words_are_found() -> None:
    assert problems_of(["One " * 31], []) == [f"31 words: {'One ' * 31}"]
    assert problems_of([], ["It refuses floats."]) == ["'refuses' (rejects, raises): It refuses floats."]


@cache
def problems(name: str) -> tuple[str, ...]:
    return tuple(f"{name}: {problem}" for problem in problems_of(sentences(name), fragments(name)))


def problems_of(found: list[str], fragments: list[str]) -> list[str]:
    """What is wrong with sentences, and with the words of fragments."""
    wrong = [f"{words(one)} words: {one}" for one in found if words(one) > LONGEST]
    found = found + fragments
    for pattern, instead in INSTEAD.items():
        for one in found:
            if match := re.search(rf"\b(?:{pattern})\b", one, re.IGNORECASE):
                wrong.append(f"'{match[0]}' ({instead}): {one}")
    return wrong


def sentences(name: str) -> list[str]:
    """The sentences of a document, or of the public docstrings and help texts of a source file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        return list(split(prose(text)))
    return [one for string in strings(text) for one in split(prose(string))]


def fragments(name: str) -> list[str]:
    """The headings and the rows of the tables of a document."""
    if not name.endswith(".md"):
        return []
    lines = plain((ROOT / name).read_text(encoding="utf-8")).splitlines()
    return [line for line in lines if line.startswith(("#", "|"))]


def plain(text: str) -> str:
    """Markdown without code and the targets of links."""
    text = re.sub(r"<!-- speed: begin -->.*?<!-- speed: end -->", "", text, flags=re.DOTALL)  # a program wrote it
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->|!\[[^\]]*\]\([^)]*\)|\[\^[\w-]+\]:?", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    return re.sub(r"(?::\w+:)?(`+)[^`]*\1", "X", text).replace("**", "")


def prose(text: str) -> Iterator[str]:
    """Paragraphs and items of lists, without code, tables, headings and the targets of links."""
    paragraph: list[str] = []
    for line in (*plain(text).splitlines(), ""):
        line = line.strip()
        item = re.match(r"(?:[-*]|\d+\.) ", line)
        if not line or item or line.startswith(("#", "|", ":::", ">>>", "...")):
            yield " ".join(paragraph)
            paragraph = [line[item.end() :]] if item else []
        else:
            paragraph.append(line)


def split(paragraphs: Iterator[str]) -> Iterator[str]:
    """The sentences of paragraphs."""
    for paragraph in paragraphs:
        for one in re.split(r"(?<=[.!?])(?<!al\.)(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)\s+", paragraph):
            if words(one):
                yield one


def words(sentence: str) -> int:
    return sum(re.search(r"\w", word) is not None for word in sentence.split())


def strings(source: str) -> Iterator[str]:
    """Public docstrings, those below fields, and what commands print as help."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in ("help", "description", "epilog") and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)
        body = getattr(node, "body", None)
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or getattr(node, "name", "").startswith(
            "_"
        ):
            continue
        yield from paragraphs_of(ast.get_docstring(node) or "")
        if isinstance(node, ast.Module | ast.ClassDef) and body:
            for field, text in pairwise(body):
                if isinstance(field, ast.Assign | ast.AnnAssign) and isinstance(text, ast.Expr):
                    yield str(getattr(text.value, "value", ""))


def paragraphs_of(docstring: str) -> Iterator[str]:
    """A docstring, each entry of its lists by itself."""
    for part in re.split(r"\n\s*\n|^(?:Args|Returns|Raises|Yields|Example|Examples):$", docstring, flags=re.MULTILINE):
        yield from re.split(r"\n(?=    ?\s*\*{0,2}\w[\w, |*]*: )", part)
