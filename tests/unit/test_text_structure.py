"""Cutting documents along sentences, Markdown and code: what holds for every document, and examples."""

from __future__ import annotations

import itertools
import time

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill_worker.text.sentences import sentence_starts
from batchmill_worker.text.structure import LEVELS, Limits, Piece, cut_along

PIECES = (
    *("a", "Bc ", " ", "\n", "\r\n", "\n\n", ". ", "! ", "。", "# H\n", "## G\n", "===\n", "---\n", "```\n", "- x\n"),
    *(
        "| y |\n",
        "    ",
        "\t",
        "def f():\n",
        "}\n",
        "@d\n",
        "e\u0301",
        "\u0301",
        "数",
        "👩\u200d🚀",
        "e.g. ",
        '"',
        "\u2028",
    ),
)
DOCUMENTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
SIZES = st.integers(1, 9).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


def tokens_of(document: str) -> list[tuple[int, int]]:
    return [found.span() for found in regex.finditer(r"[\w\p{M}]+|(?!\s)\X", document)]


def cut(by: str, document: str, size: int, overlap: int = 0) -> list[Piece]:
    characters = {found.start() for found in regex.finditer(r"\X", document)}
    return cut_along(by, document, tokens_of(document), Limits(size, overlap), characters)


def texts(by: str, document: str, size: int, overlap: int = 0) -> list[str]:
    return [document[piece.start : piece.end] for piece in cut(by, document, size, overlap)]


@pytest.mark.parametrize("by", LEVELS)
@settings(max_examples=400, deadline=None)
@given(document=DOCUMENTS, sizes=SIZES)
def test_pieces_cover_the_document_go_on_and_keep_their_limits(by: str, document: str, sizes: tuple[int, int]) -> None:
    size, overlap = sizes
    pieces = cut(by, document, size, overlap)
    tokens = tokens_of(document)
    whole = {found.start() for found in regex.finditer(r"\X", document)} | {0, len(document)}
    assert pieces[0].start == 0
    assert pieces[-1].end == len(document)
    for one, following in itertools.pairwise(pieces):
        assert one.start < following.start <= one.end < following.end
    for piece in pieces:
        assert {piece.start, piece.end} <= whole
        assert piece.end > piece.start or not document
        begun = [start for start, _ in tokens if piece.start <= start < piece.end]
        inner = [start for start in begun[1:] if start in whole]
        assert len(begun) <= size or not inner  # else it is one character
    every_token_can_be_cut = all(start in whole for start, _ in tokens)
    for one, following in itertools.pairwise(pieces):
        shared = [start for start, _ in tokens if following.start <= start < one.end]
        assert len(shared) <= overlap or not every_token_can_be_cut
        assert following.start == one.end or shared


def test_sentences_end_at_punctuation_but_not_at_abbreviations_or_in_lower_case() -> None:
    document = 'Dr. J. Smith came, e.g. by car. "Did he?" asked Ann. No!  他来了。我走了。\n\nNew paragraph\n\nEnd'
    assert texts("sentence", document, 1000) == [document]
    places = [0, *sentence_starts(document, 0, len(document)), len(document)]
    assert [document[start:end] for start, end in itertools.pairwise(places)] == [
        "Dr. J. Smith came, e.g. by car. ",
        '"Did he?" asked Ann. ',
        "No!  ",
        "他来了。",
        "我走了。\n\n",
        "New paragraph\n\n",
        "End",
    ]
    assert texts("sentence", "One two. Three four. Five six.", 3) == ["One two. ", "Three four. ", "Five six."]


def test_sentences_share_complete_sentences_that_fit_the_overlap() -> None:
    document = "One two. Three. Four five. Six."
    assert texts("sentence", document, 5, 2) == ["One two. Three. ", "Three. Four five. ", "Six."]
    assert texts("sentence", document, 5, 1) == ["One two. Three. ", "Four five. Six."]


def test_a_sentence_that_is_too_long_is_cut_by_tokens_with_the_exact_overlap() -> None:
    document = "Short one. " + "Word " * 9 + "end. Last."
    assert texts("sentence", document, 5, 2) == ["Short one. ", *["Word " * 5] * 2, "Word Word Word end. ", "Last."]


def test_markdown_is_cut_at_headings_and_each_chunk_knows_those_above_it() -> None:
    code = "```py\n# no heading\n\nx\n```\n\n"
    document = f"Intro.\n\n# Cats\n\n## Food\n\nFish.\n\n{code}## Sleep ##\nMuch.\n\nDogs\n====\nBark.\n"
    assert [(document[one.start : one.end], one.headings) for one in cut("markdown", document, 100, 10)] == [
        ("Intro.\n\n", ()),
        (f"# Cats\n\n## Food\n\nFish.\n\n{code}", ("Cats", "Food")),
        ("## Sleep ##\nMuch.\n\n", ("Cats", "Sleep")),
        ("Dogs\n====\nBark.\n", ("Dogs",)),
    ]


def test_a_section_is_cut_between_blocks_tables_by_lines_and_paragraphs_by_sentences() -> None:
    fence = "```\na b\n\nc d\n```\n"
    document = f"# T\nOne two. Three four.\n\n{fence}\n| a | b |\n| c | d |\n"
    title, table = "# T\nOne two. Three four.\n\n", ["| a | b |\n", "| c | d |\n"]
    assert texts("markdown", document, 10) == [title, f"{fence}\n", "".join(table)]
    assert texts("markdown", document, 8) == [title, "```\na b\n\nc d\n", "```\n\n", *table]
    assert texts("markdown", document, 6)[:2] == ["# T\nOne two. ", "Three four.\n\n"]


def test_front_matter_and_rules_are_no_headings() -> None:
    document = "---\ntitle: x\n---\n\nText.\n\n- a\n---\n\n---\nMore.\n"
    assert {one.headings for one in cut("markdown", document, 5)} == {()}


CODE = '''"""Module."""

import os


class A:
    """Doc."""

    def one(self):
        return 1

    @cached
    def two(self):
        x = 2

        return x


def three():
    return 3
'''


def test_code_is_cut_between_definitions_from_the_outermost_in() -> None:
    assert texts("code", CODE, 200) == [CODE]
    head, one, two, three = texts("code", CODE, 22)
    assert head.startswith('"""Module."""')
    assert one.startswith(("class A:", "    def one"))
    assert two.startswith("    @cached\n    def two")
    assert three.startswith("def three")


def test_code_without_empty_lines_is_cut_where_the_indentation_says_a_definition_begins() -> None:
    document = "func a() {\n  x()\n}\n// about b\nfunc b() {\n  y()\n}\n"
    assert texts("code", document, 13) == ["func a() {\n  x()\n}\n", "// about b\nfunc b() {\n  y()\n}\n"]


@pytest.mark.slow
@pytest.mark.parametrize("by", LEVELS)
@pytest.mark.parametrize(
    "unit", [".", ". ", "\n", " \n", "#", "# a\n", "`", "```\n", "=\n", ")", "a\n\n", "  a\n\n", "|", '"']
)
def test_the_time_is_linear_in_the_document(by: str, unit: str) -> None:
    def seconds(length: int) -> float:
        document = unit * (length // len(unit))
        tokens = [(place, place + 1) for place, letter in enumerate(document) if not letter.isspace()]
        started = time.process_time()
        cut_along(by, document, tokens, Limits(200, 20), range(len(document)))
        return time.process_time() - started

    assert seconds(200_000) < 10  # quadratic, it would be minutes
