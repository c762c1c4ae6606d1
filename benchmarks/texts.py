"""Real texts of mixed lengths that every CPython carries: its language reference, and its library's docstrings."""

from __future__ import annotations

import ast
import re
import sysconfig
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from batchmill.cli.demo.corpus import chapters, language_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_WORDS = 6
LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib")
_BLANK_LINES = re.compile(r"\n\s*\n")
_WORD = re.compile(r"[^\W\d_]{2,}")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def texts(rows: int) -> list[str]:
    """That many different texts in a mixed order, the same each time for one Python.

    Raises `RuntimeError` if this Python carries fewer.
    """
    found = [text for row in chapters(language_reference()) for text in _paragraphs(row["text"])]
    found += _docstrings(Path(sysconfig.get_paths()["stdlib"]))
    different = list(dict.fromkeys(found))
    if len(different) < rows:
        raise RuntimeError(f"this Python carries {len(different)} texts, and {rows} are asked for")
    Random(0).shuffle(different)  # noqa: S311  # an order, no secret
    return different[:rows]


def _paragraphs(chapter: str) -> Iterator[str]:
    for paragraph in _BLANK_LINES.split(chapter):
        text = " ".join(paragraph.split())
        if len(_WORD.findall(text)) >= MIN_WORDS:
            yield text


def _docstrings(library: Path) -> Iterator[str]:
    for path in sorted(library.rglob("*.py")):
        if any(part in LEFT_OUT for part in path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates, and files of other encodings
            continue
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED):
                text = " ".join((ast.get_docstring(node) or "").split())
                if text.count(" ") >= MIN_WORDS - 1:
                    yield text
