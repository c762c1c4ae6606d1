"""No name and no text uses a word that docs/glossary.md lists under "Words to avoid".

Names are identifiers of Python and Lua, and metrics, settings and options in strings. Text is every other string,
docstring, comment and page. A finding says where it is, and what to write instead.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
AREAS = (
    "common/batchmill/cli",
    "common/batchmill/client",
    "common/batchmill/embedded",
    "common/batchmill/ledger",
    "common/batchmill/operators",
    "common/batchmill/processes",
    "common/batchmill/sinks",
    "common/batchmill/sources",
    "common/batchmill/storage",
    "common/batchmill/telemetry",
    "common/batchmill",
    "coordinator/batchmill_coordinator",
    "worker/batchmill_worker",
    "benchmarks",
    "docs",
    "examples",
    ".",
)
"""The folders to search. A file belongs to the first one that contains it; of the last, only the pages are read."""

PUBLIC_NAMES = frozenset({"has_room", "waiting", "going on", "put back", "republished", "trouble"})
"""Names of the HTTP API and of stored data: a field, and the former names of log events, which can still be read."""

_ROW = re.compile(r"^\| (`.+`) \| (.+) \| ([a-z, ]+) \|$", re.MULTILINE)
_NAME = re.compile(r"(?:--)?[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)+")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LUA_NAME = re.compile(r"\b[A-Za-z_]\w*\b")
_INLINE_CODE = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True, slots=True)
class Rule:
    """A word to avoid, as it is written in text: words separated by spaces."""

    word: str
    better: str
    in_names: bool
    in_text: bool

    def is_in_name(self, name: str) -> bool:
        """Whether the words of an identifier contain this one, or a constant has it as its prefix."""
        if self.word.endswith("_"):
            return name.lstrip("_").startswith(self.word)
        words = " ".join(part.lower() for part in _PARTS.findall(name))
        return f" {self.word} " in f" {words} "

    def is_in_text(self, text: str) -> bool:
        """Whether a text contains this word, also across a line break."""
        pattern = r"\s+".join(map(re.escape, self.word.split()))
        return re.search(rf"(?<![\w-]){pattern}(?![\w-])", text, re.IGNORECASE) is not None


def rules() -> list[Rule]:
    """The table of the glossary."""
    found = []
    for words, better, where in _ROW.findall(GLOSSARY.read_text().partition("## Words to avoid")[2]):
        kinds = {kind.strip() for kind in where.split(",")}
        assert kinds <= {"names", "text"}, where
        found += [Rule(word, better, "names" in kinds, "text" in kinds) for word in re.findall(r"`([^`]+)`", words)]
    return found


RULES = rules()


@dataclass(frozen=True, slots=True)
class Item:
    """A name or a text, and its line."""

    line: int
    text: str
    is_name: bool


def python_items(source: str) -> Iterator[Item]:
    """What a Python file defines and says."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield Item(node.lineno, node.name, is_name=True)
            case ast.arg():
                yield Item(node.lineno, node.arg, is_name=True)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield Item(node.lineno, name, is_name=True)
            case ast.Constant(value=str(text)):
                yield Item(node.lineno, text, is_name=_NAME.fullmatch(text) is not None)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Item(token.start[0], token.string, is_name=False)


def lua_items(source: str) -> Iterator[Item]:
    """The identifiers and the comments of a Lua script."""
    for number, line in enumerate(source.splitlines(), 1):
        code, _, comment = line.partition("--")
        for name in _LUA_NAME.findall(code):
            yield Item(number, name, is_name=True)
        yield Item(number, comment, is_name=False)


def page_items(source: str) -> Iterator[Item]:
    """The paragraphs of a page, without code; of the glossary, not the words that it lists to avoid."""
    text = source.partition("## Words to avoid")[0]
    line, is_code = 1, False
    paragraph: list[str] = []
    for number, content in enumerate([*text.splitlines(), ""], 1):
        if content.startswith("```"):
            is_code = not is_code
        elif content.strip() and not is_code:
            line = line if paragraph else number
            paragraph.append(_INLINE_CODE.sub("``", content))
            continue
        yield Item(line, "\n".join(paragraph), is_name=False)
        paragraph = []


READERS = {".py": python_items, ".lua": lua_items, ".md": page_items}


def files_of(area: str) -> list[Path]:
    """The files of an area that belong to no area before it."""
    folder = ROOT / area
    found = folder.glob("*.md") if area == "." else folder.rglob("*")
    before = [ROOT / other for other in AREAS[: AREAS.index(area)]]
    return sorted(
        path for path in found if path.suffix in READERS and not any(path.is_relative_to(other) for other in before)
    )


def findings(area: str) -> Iterator[str]:
    """Yield the words to avoid in an area, each with its place and what to write instead."""
    for path in files_of(area):
        yield from findings_in(path)


def findings_in(path: Path) -> Iterator[str]:
    """Yield the words to avoid in a file, each with its place and what to write instead."""
    place = path.relative_to(ROOT)
    stem = [] if path.suffix == ".md" else [Item(0, path.stem, is_name=True)]
    for item in [*stem, *READERS[path.suffix](path.read_text())]:
        for rule in words_in(item):
            text = " ".join(item.text.split())[:60]
            yield f"{place}:{item.line}: {rule.word!r} in {text!r}: use {rule.better}"


def words_in(item: Item) -> list[Rule]:
    """Return the rules that a name or a text breaks."""
    if item.text in PUBLIC_NAMES:
        return []
    if item.is_name:
        return [rule for rule in RULES if rule.in_names and rule.is_in_name(item.text)]
    return [rule for rule in RULES if rule.in_text and rule.is_in_text(item.text)]


@pytest.mark.parametrize("area", AREAS)
def test_names_and_texts_use_the_terms_of_the_glossary(area: str) -> None:
    found = list(findings(area))

    assert found == [], "\n" + "\n".join(found)


def test_every_area_is_searched() -> None:
    assert all(files_of(area) for area in AREAS)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def tell_user(): pass", [(1, "tell")]),
        ("class PutBack: pass", [(1, "put back")]),
        ("x = 1\nMOST_ROWS = the_most_expensive = 2", [(2, "MOST_")]),
        ("self.seats = 1", [(1, "seats")]),
        ("f(help='Mend\\nit.')", [(1, "mend")]),
        ("f('it goes\\non')", [(1, "goes on")]),
        ("f(f'{x} came')", [(1, "came")]),
        ("x = 1  # it lies there", [(1, "lies")]),
        ("f('batchmill_told_total')", [(1, "told")]),
        ("almost = outlook = 'a stand-in, a standard, a letter, storytelling'", []),
    ],
)
def test_a_word_to_avoid_is_found_in_names_messages_and_comments_of_python(
    source: str, expected: list[tuple[int, str]]
) -> None:
    assert found_in(list(python_items(source))) == expected


def test_a_word_to_avoid_is_found_in_scripts_and_pages_but_not_in_code_of_pages() -> None:
    assert found_in(list(lua_items("local told = 1 -- it lies there"))) == [(1, "told"), (1, "lies")]
    page = "# A page\n\nIt goes\non.\n\n```\nit told\n```\n\n`told` is a name.\n"
    assert found_in(list(page_items(page))) == [(3, "goes on")]


def found_in(items: list[Item]) -> list[tuple[int, str]]:
    """Line and word of each finding."""
    return [(item.line, rule.word) for item in items for rule in words_in(item)]
