"""Limits for the packages, from CONTRIBUTING.md: lines of functions and files, nesting, modules of a folder."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for package in ("common", "coordinator", "worker") for path in (ROOT / package).rglob("*.py"))
GENERATED = ROOT / "common/batchmill/ledger/scripting/calls.py"
MAX_FUNCTION_LINES = 60
MAX_NESTING = 3
MAX_FILE_LINES = 400
MAX_MODULES = 20

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)
"""What is nested. A `with` holds something open and decides nothing."""

_SWITCHED_OFF = re.compile(r"# (noqa|type: ignore)(?!\S*[^#\n]*  # \w)")
_NO_QA = re.compile(r"# noqa: [A-Z](?!\S*[^#\n]*  # \w)")  # types of tests are often wrong on purpose

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: str) -> list[Function]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]


def lines_of(function: Function) -> int:
    """The lines of a function without its docstring."""
    described = function.body[0] if ast.get_docstring(function) is not None else None
    text = 0 if described is None else (described.end_lineno or 0) - described.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - text


def nesting_of(node: ast.AST) -> int:
    """The most blocks inside each other; `elif` is no block of its own, and a function inside counts by itself."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting_of(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def test_a_function_has_at_most_60_lines_and_3_blocks_inside_each_other() -> None:
    over = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in FILES
        if path != GENERATED
        for function in functions(path.read_text())
        if lines_of(function) > MAX_FUNCTION_LINES or nesting_of(function) > MAX_NESTING
    ]
    assert over == []


def test_a_file_has_at_most_400_lines() -> None:
    long = {str(path.relative_to(ROOT)) for path in FILES if path.read_text().count("\n") > MAX_FILE_LINES}

    assert long - {str(GENERATED.relative_to(ROOT))} == set()


def test_a_folder_has_at_most_20_modules() -> None:
    modules = Counter(path.parent for path in FILES if path.name != "__init__.py")

    assert {str(folder.relative_to(ROOT)): count for folder, count in modules.items() if count > MAX_MODULES} == {}


def test_a_rule_that_is_switched_off_has_its_reason_on_its_line() -> None:
    others = [path for folder in ("tests", "benchmarks", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
    without = [
        f"{path.relative_to(ROOT)}:{number}"
        for paths, pattern in ((FILES, _SWITCHED_OFF), (others, _NO_QA))
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert without == []


def test_what_is_measured() -> None:
    source = '''
def f(rows):
    """Two lines
    of text."""
    with rows:
        for row in rows:
            try:
                if row:
                    pass
                elif rows:
                    pass
                else:
                    while row:
                        pass
            finally:
                pass
'''
    (function,) = functions(source)

    assert lines_of(function) == 13
    assert nesting_of(function) == 4
