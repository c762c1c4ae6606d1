"""Makes prompts fit into a context: cuts or splits the longest text that a column gave, never the template around it.

Of a conversation, it can leave out the oldest turns instead.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from batchmill.operators.row_errors import ContextTooLong
from batchmill_worker.generation.base import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchmill_worker.generation.base import Draft, OnLong, Segment

MAX_CUTS = 8
"""The ends of what is left may make other tokens than before, so a cut may have to be repeated."""
MAX_PARTS = 64
GAP = " … "
_BROKEN = "\ufffd"  # what a cut leaves of a character of several tokens


class Tokenizer(Protocol):
    """The tokenizer of a model, with its chat template."""

    def encode_draft(self, draft: Draft) -> tuple[int, ...]:
        """Return the tokens of a complete prompt."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that is no part of a template."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        ...


def fit(tokenizer: Tokenizer, draft: Draft, budget: int, on_long: OnLong) -> Prompt:
    """Return the prompt of at most `budget` tokens. Raises `ContextTooLong`, also if the template alone is too long."""
    tokens = tokenizer.encode_draft(draft)
    before, excess = len(tokens), len(tokens) - budget
    if excess <= 0:
        return Prompt(draft, tokens)
    if on_long == "drop_turns":
        return _without_oldest_turns(tokenizer, draft, before, budget)
    where = None if on_long == "error" else _longest(draft)
    if where is None:
        raise ContextTooLong(f"the prompt has {before} tokens, and the context has room for {max(budget, 0)}")
    complete = tokenizer.encode(_segment(draft, where).text)
    room = len(complete) - excess
    for _ in range(MAX_CUTS):
        if room <= 0:
            break
        cut = _replaced(draft, where, _cut(tokenizer, complete, room, on_long))
        tokens = tokenizer.encode_draft(cut)
        if len(tokens) <= budget:
            return Prompt(cut, tokens, before - len(tokens))
        room -= len(tokens) - budget
    raise ContextTooLong(
        f"the prompt has {before} tokens, and the context has room for {max(budget, 0)}, too few for what is around "
        "the column"
    )


def _without_oldest_turns(tokenizer: Tokenizer, draft: Draft, before: int, budget: int) -> Prompt:
    """Leave out as few turns as possible: what comes before the first is kept, and so is the last turn."""
    messages = draft.messages
    starts = [place for place, message in enumerate(messages) if message.role == "user"] or [0]

    def without(dropped: int) -> tuple[Draft, tuple[int, ...]]:
        kept = replace(draft, messages=(*messages[: starts[0]], *messages[starts[dropped] :]))
        return kept, tokenizer.encode_draft(kept)

    # A conversation with fewer turns never has more tokens, so the fewest are found by halving.
    dropped = bisect_left(range(len(starts)), True, lo=1, key=lambda number: len(without(number)[1]) <= budget)
    if dropped < len(starts):
        kept, tokens = without(dropped)
        return Prompt(kept, tokens, before - len(tokens))
    raise ContextTooLong(
        f"the prompt has {before} tokens, and the context has room for {max(budget, 0)}, too few for its last turn"
    )


def fit_parts(render: Callable[[Draft], Prompt], draft: Draft) -> list[Prompt]:
    """Split the longest text that a column gave, so that the prompt of each part fits; return one prompt if it fits.

    render: makes a prompt, and raises `ContextTooLong`. Raises that if even `MAX_PARTS` parts are too long.
    """
    where, parts = _longest(draft), 1
    while True:
        try:
            return [render(one) for one in _split(draft, where, parts)]
        except ContextTooLong:
            parts += max(parts // 4, 1)
            if where is None or parts > MAX_PARTS:
                raise


def _split(draft: Draft, where: tuple[int, int] | None, parts: int) -> list[Draft]:
    """Split a text of a draft into parts of about the same length, between words if there are any."""
    if where is None or parts == 1:
        return [draft]
    text = _segment(draft, where).text
    borders = [0]
    for part in range(1, parts):
        end = part * len(text) // parts
        least = end - len(text) // parts // 4
        border = max(text.rfind(" ", least, end), text.rfind("\n", least, end)) + 1
        borders.append(border or end)
    pieces = [text[start:end].strip() for start, end in pairwise([*borders, len(text)])]
    return [_replaced(draft, where, piece) for piece in pieces if piece]


def _cut(tokenizer: Tokenizer, tokens: tuple[int, ...], room: int, on_long: OnLong) -> str:
    match on_long:
        case "cut_left":
            return tokenizer.decode(tokens[len(tokens) - room :]).lstrip(_BROKEN)
        case "cut_middle":
            head = max(room - len(tokenizer.encode(GAP)), 0)
            tail = head // 2
            first = tokenizer.decode(tokens[: head - tail]).rstrip(_BROKEN)
            last = tokenizer.decode(tokens[len(tokens) - tail :]).lstrip(_BROKEN) if tail else ""
            return first + GAP + last
        case _:
            return tokenizer.decode(tokens[:room]).rstrip(_BROKEN)


def _longest(draft: Draft) -> tuple[int, int] | None:
    """Find the longest text of a column, by message and segment; None: there is none."""
    found = [
        (len(segment.text), (place, number))
        for place, message in enumerate(draft.messages)
        for number, segment in enumerate(message.segments)
        if segment.is_column and segment.text
    ]
    return max(found)[1] if found else None


def _segment(draft: Draft, where: tuple[int, int]) -> Segment:
    return draft.messages[where[0]].segments[where[1]]


def _replaced(draft: Draft, where: tuple[int, int], text: str) -> Draft:
    place, number = where
    message = draft.messages[place]
    segments = list(message.segments)
    segments[number] = replace(segments[number], text=text)
    messages = list(draft.messages)
    messages[place] = replace(message, segments=tuple(segments))
    return replace(draft, messages=tuple(messages))
