"""The answers of rows, each of which is asked in one request or, if it is split, in several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill_worker.generation.base import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.generation.base import Generation

BETWEEN_PARTS = "\n\n"


class RowAnswers:
    """The requests of rows, and the answers that have come. Used by one thread at a time."""

    def __init__(self) -> None:
        self._asked: dict[int, Sequence[Generation]] = {}
        self._answers: dict[int, dict[int, Answer]] = {}

    def ask(self, index: int, generations: Sequence[Generation]) -> None:
        """Expect the answers of a row."""
        self._asked[index], self._answers[index] = generations, {}

    def add(
        self, index: int, generation: Generation, outcome: Answer | Exception
    ) -> tuple[Sequence[Generation], list[Answer]] | None:
        """Add an answer; return all of the row, in their order, if it is the last one.

        An error ends the row and is raised. What comes afterwards for the row has no effect.
        """
        if index not in self._asked:
            return None
        if isinstance(outcome, Exception):
            del self._asked[index], self._answers[index]
            raise outcome
        answers = self._answers[index]
        answers[generation.number] = outcome
        if len(answers) < len(self._asked[index]):
            return None
        generations = self._asked.pop(index)
        del self._answers[index]
        return generations, [answers[one.number] for one in generations]


def joined(answers: Sequence[Answer]) -> Answer:
    """Return the answers of the parts of a row as one; it was cut if any of them was."""
    if len(answers) == 1:
        return answers[0]
    return Answer(
        BETWEEN_PARTS.join(answer.text for answer in answers),
        next((one.finish_reason for one in answers if one.finish_reason != "stop"), "stop"),
        sum(answer.prompt_tokens for answer in answers),
        sum(answer.cached_tokens for answer in answers),
        sum(answer.generated_tokens for answer in answers),
    )
