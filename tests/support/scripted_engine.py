"""An engine for language models that does what a test says: it answers, fails, or makes no token."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from batchmill.operators.contract import OperatorDefinition, OperatorKind
from batchmill_worker.generation.base import (
    Answer,
    BegunAnswer,
    Delta,
    Draft,
    EngineLimits,
    EngineStats,
    Generation,
    Message,
    Prompt,
    Sampling,
    Segment,
)
from batchmill_worker.models.ready_operator import ReadyOperator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.columns.lineage import Path
    from batchmill_worker.generation.base import OnLong

SAMPLING = Sampling(100)


class ScriptedEngine:
    """Each step makes a token for each row in flight; a row ends after as many as its text says: "3", "3 words".

    Rows whose text begins with "mute" get no token. error: raised by the next step. entered: rows in order of entry.
    continued: how many tokens each of them had already.
    free: steps are made; clear it to hold the engine.
    """

    name = "scripted"
    digest = "none"
    precision = "none"

    def __init__(self, places: int = 2) -> None:
        self.limits = EngineLimits(1000, places, continues=True)
        self.entered: list[str] = []
        self.ended: list[str] = []
        self.continued: list[int] = []
        self.aborted: list[int] = []
        self.at_once = 0
        self.error: Exception | None = None
        self.free = threading.Event()
        self.free.set()
        self._left: dict[int, tuple[Generation, int]] = {}

    def render(self, draft: Draft, sampling: Sampling, on_long: OnLong) -> Prompt:  # noqa: ARG002  # texts are short
        return Prompt(draft, (1,))

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def submit(self, generation: Generation, place: int) -> None:
        assert 0 <= place < self.limits.places
        text = text_of(generation)
        self.entered.append(text)
        self.continued.append(len(generation.begun_tokens))
        left = 0 if text.startswith("mute") else int(text.split()[0]) - len(generation.begun_tokens)
        self._left[generation.number] = generation, left
        self.at_once = max(self.at_once, len(self._left))

    def step(self, wait_s: float) -> Sequence[Delta]:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if not self._left or not self.free.wait(wait_s):
            return []
        found = []
        for number, (generation, left) in list(self._left.items()):
            if not left:
                continue
            self._left[number] = generation, left - 1
            if left > 1:
                found.append(Delta(number, "x", 1))
                continue
            del self._left[number]
            self.ended.append(text_of(generation))
            found.append(Delta(number, answer=Answer(text_of(generation), "stop", 1, 0, 1)))
        if not found:
            time.sleep(0.001)  # rows that get no token: the caller asks again at once
        return found

    def abort(self, number: int) -> None:
        self._left.pop(number, None)
        self.aborted.append(number)

    def stats(self) -> EngineStats:
        return EngineStats(len(self._left), self.limits.places)

    def close(self) -> None:
        assert not self._left


class ScriptedOperator:
    """Makes a request of the column `text` of each row, and returns it as `out`."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self._number = 0
        self._lock = threading.Lock()

    def render(self, row: Mapping[str, Any], path: Path, failures: int) -> Sequence[Generation]:
        with self._lock:
            self._number += 1
            number = self._number
        draft = Draft((Message("", (Segment(str(row["text"])),)),), is_chat=False)
        prompt = self.engine.render(draft, SAMPLING, "error")
        return (Generation(number, prompt, SAMPLING, path[0] + failures, may_continue=True),)

    def resume(self, generation: Generation, begun: BegunAnswer) -> Generation:
        return replace(generation, begun_text=begun.text, begun_tokens=self.engine.encode(begun.text))

    def result(self, generations: Sequence[Generation], answers: Sequence[Answer]) -> dict[str, Any]:
        return {"out": answers[0].text, "seed": generations[0].seed}

    def infer(self, _: Any) -> Any:
        raise AssertionError("rows go through the engine")


def text_of(generation: Generation) -> str:
    return generation.prompt.draft.messages[0].text


def scripted(engine: ScriptedEngine) -> ReadyOperator:
    operator: Any = ScriptedOperator(engine)
    definition = OperatorDefinition("scripted", lambda: operator, BaseModel, kind=OperatorKind.REQUEST)
    return ReadyOperator(definition, operator)
