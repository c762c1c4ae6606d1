"""Cutting documents: what holds for every document, whatever its tokens are."""

from __future__ import annotations

import itertools

import regex
from hypothesis import given
from hypothesis import strategies as st

from batchmill_worker.text.pieces import cut

ALPHABET = "ab1 .\n\r\té\u0301数🙂👩\u200d🚀\U0001f1e9\U0001f1ea"
DOCUMENTS = st.text(ALPHABET, max_size=60)
SIZES = st.integers(1, 8).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


def characters(document: str) -> set[int]:
    return {found.start() for found in regex.finditer(r"\X", document)}


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """A document with tokens that leave gaps, are empty, and share characters as bytes of one do."""
    document = draw(DOCUMENTS)
    places = st.integers(0, len(document))
    pairs = draw(st.lists(st.tuples(places, places), max_size=40))
    return document, sorted((min(pair), max(pair)) for pair in pairs)


@given(tokenised(), SIZES)
def test_pieces_cover_the_document_go_on_and_never_cut_a_character(
    given_document: tuple[str, list[tuple[int, int]]], sizes: tuple[int, int]
) -> None:
    document, tokens = given_document
    pieces = cut(len(document), tokens, *sizes, characters(document))
    assert pieces[0][0] == 0
    assert pieces[-1][1] == len(document)
    for (start, end), (next_start, next_end) in itertools.pairwise(pieces):
        assert start < next_start <= end < next_end
    whole = characters(document) | {0, len(document)}
    assert {place for piece in pieces for place in piece} <= whole


@given(DOCUMENTS, SIZES)
def test_size_and_overlap_are_exact_in_tokens_where_no_character_is_in_the_way(
    document: str, sizes: tuple[int, int]
) -> None:
    size, overlap = sizes
    tokens = [found.span() for found in regex.finditer(r"[\w\p{M}]+|(?!\s)\X", document)]
    alone = characters(document)
    if any(start not in alone for start, _ in tokens):
        return
    pieces = cut(len(document), tokens, size, overlap, alone)
    inside = [[place for place, token in enumerate(tokens) if start <= token[0] < end] for start, end in pieces]
    assert sorted(set(itertools.chain(*inside))) == list(range(len(tokens)))
    assert all(len(numbers) == size for numbers in inside[:-1])
    assert len(inside[-1]) <= size
    for numbers, following in itertools.pairwise(inside):
        assert len(set(numbers) & set(following)) == overlap


def test_a_document_without_tokens_is_one_piece() -> None:
    assert cut(0, [], 5, 2, set()) == [(0, 0)]
    assert cut(3, [], 5, 2, range(3)) == [(0, 3)]


def test_what_cannot_be_cut_is_a_piece_of_its_own_though_it_is_too_large() -> None:
    bytes_of_one = [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert cut(3, bytes_of_one, 2, 1, range(3)) == [(0, 1), (1, 2), (2, 3)]
