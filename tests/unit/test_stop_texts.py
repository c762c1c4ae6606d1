"""Stop texts in answers that come in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill_worker.generation.engines.stop_texts import StopSearch


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "text"),
    [
        ((), ["one ", "two"], ["one ", "two"], "one two"),
        (("END",), ["one EN", "D two"], ["one ", ""], "one "),
        (("END",), ["one E", "N", "x"], ["one ", "", "ENx"], "one ENx"),
        (("\n\n", "END"), ["a\n", "b END c\n\n"], ["a", "\nb "], "a\nb "),
        (("aab",), ["aa", "ab"], ["", "a"], "a"),
        (("b", "abc"), ["ab"], ["a"], "a"),
        (("x",), ["x"], [""], ""),
    ],
)
def test_text_is_shown_up_to_the_first_stop_text_and_never_a_part_of_one(
    stops: tuple[str, ...], pieces: list[str], shown: list[str], text: str
) -> None:
    search = StopSearch(stops)

    assert [search.more(piece) for piece in pieces] == shown
    assert search.text == text


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.lists(st.text("abc", max_size=4), max_size=8))
def test_what_is_shown_does_not_depend_on_the_pieces_and_has_no_stop_text(stops: list[str], pieces: list[str]) -> None:
    search = StopSearch(stops)
    shown = ""
    for piece in pieces:
        shown += search.more(piece)
        if search.end is not None:
            break

    complete = "".join(pieces)
    assert not any(stop in shown for stop in stops)
    assert complete.startswith(search.text)
    assert search.text.startswith(shown)
    if search.end is None:
        assert not any(stop in complete for stop in stops)
    else:
        assert shown == search.text
        assert any(complete.startswith(stop, search.end) for stop in stops)
