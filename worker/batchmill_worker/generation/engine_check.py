"""Runs generations together until all have ended, and tests an engine with it when it is set up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchmill.errors import OperatorFailed
from batchmill_worker.generation.base import Answer, Draft, Generation, Message, Prompt, Sampling, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.generation.base import TextEngine

TEST_TEXT = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19"
OTHER_TEST_TEXT = "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over"
TEST_TOKENS = 8
TEST_TIMEOUT_S = 120.0


def answer_together(
    engine: TextEngine, generations: Sequence[Generation], timeout_s: float = float("inf")
) -> list[Answer | Exception]:
    """Run generations, one in each place, until all have ended. Raises `TimeoutError`."""
    for place, generation in enumerate(generations):
        engine.submit(generation, place)
    ended: dict[int, Answer | Exception] = {}
    deadline = time.monotonic() + timeout_s
    while len(ended) < len(generations):
        for delta in engine.step(0.1):
            outcome = delta.answer or delta.error
            if outcome is not None:
                ended[delta.number] = outcome
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {timeout_s:g} s")
    return [ended[generation.number] for generation in generations]


def check_engine(operator: str, engine: TextEngine) -> None:
    """Raise `OperatorFailed` for an engine whose answer is empty, or differs alone and beside another row.

    Where rounding may decide about a token, the first half of the answer has to be the same.
    """
    sampling = Sampling(TEST_TOKENS)
    prompts = [_plain_prompt(engine, text, sampling) for text in (TEST_TEXT, OTHER_TEST_TEXT)]

    def first_answer(count: int) -> Answer | Exception:
        asked = [Generation.numbered(prompt, sampling, 0) for prompt in prompts[:count]]
        return answer_together(engine, asked, TEST_TIMEOUT_S)[0]

    alone, beside = first_answer(1), first_answer(2)
    if isinstance(alone, Answer) and isinstance(beside, Answer) and alone.text:
        compared = len(alone.text) if engine.limits.is_exact else (len(alone.text) + 1) // 2
        if alone.text[:compared] == beside.text[: compared if compared < len(alone.text) else None]:
            return
    raise OperatorFailed(
        f"operator {operator!r}: the engine {engine.name!r} failed its test: alone it answered {_shown(alone)}, beside "
        f"another row {_shown(beside)}.",
        hint="The model's file may be damaged, or of a kind that this version of the engine does not compute rightly.",
        operator=operator,
        error_type="EngineTestFailed",
        error="",
        traceback="",
    )


def _plain_prompt(engine: TextEngine, text: str, sampling: Sampling) -> Prompt:
    return engine.render(Draft((Message("", (Segment(text),)),), is_chat=False), sampling, "error")


def _shown(answer: Answer | Exception) -> str:
    return repr(answer.text) if isinstance(answer, Answer) else f"{type(answer).__name__}: {answer}"
