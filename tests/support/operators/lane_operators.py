"""Operators for interactive requests, imported by workers."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import batchmill
from batchmill.operators.contract import OperatorKind
from batchmill_worker.generation.base import (
    Answer,
    Delta,
    Draft,
    EngineLimits,
    EngineStats,
    Generation,
    Message,
    Prompt,
    Sampling,
    Segment,
    ToolFormat,
)
from batchmill_worker.generation.tools import choose_tools, read_calls, with_tools

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.columns.lineage import Path as RowPath
    from batchmill_worker.generation.base import OnLong

_numbers = itertools.count(1)


class WordEngine:
    """Answers with the words of the prompt, one for each step.

    A word that is a path is waited for: until there is such a file, its row gets no more words. `pid` is the process.
    """

    name = "words"
    digest = "none"

    def __init__(self) -> None:
        self.limits = EngineLimits(1000, 4, has_tools=True, tool_format=ToolFormat("<call>", "name", "arguments"))
        self._left: dict[int, list[str]] = {}
        self._said: dict[int, str] = {}
        self._limit: dict[int, int] = {}
        self.aborted: Counter[str] = Counter()

    def render(self, draft: Draft, sampling: Sampling, on_long: OnLong) -> Prompt:  # noqa: ARG002  # texts are short
        return Prompt(draft, tuple(range(len(text_of(draft).split()))))

    def takes(self, sampling: Sampling) -> bool:  # noqa: ARG002  # there is no schema
        return True

    def submit(self, generation: Generation, place: int) -> None:
        assert 0 <= place < self.limits.places
        self._left[generation.number] = text_of(generation.prompt.draft).split()
        self._limit[generation.number] = generation.sampling.max_tokens
        self._said[generation.number] = ""

    def step(self, wait_s: float) -> Sequence[Delta]:
        found = []
        for number, words in list(self._left.items()):
            if words[0].startswith("/") and not Path(words[0]).exists():
                continue
            word = str(os.getpid()) if words[0] == "pid" else words[0]
            text = f" {word}" if self._said[number] else word
            self._said[number] += text
            words.pop(0)
            said = len(self._said[number].split())
            is_cut = said >= self._limit[number] and bool(words)
            if words and not is_cut:
                found.append(Delta(number, text))
                continue
            del self._left[number]
            answer = Answer(self._said[number], "length" if is_cut else "stop", said + len(words), 0, said)
            found.append(Delta(number, answer=answer))
        if not found:
            time.sleep(min(wait_s, 0.002))
        return found

    def abort(self, number: int) -> None:
        words = self._left.pop(number, [])
        for word in words:
            if word.startswith("/"):
                Path(f"{word}.aborted").touch()

    def stats(self) -> EngineStats:
        return EngineStats(len(self._left), self.limits.places)

    def close(self) -> None:
        assert not self._left


def text_of(draft: Draft) -> str:
    return draft.messages[-1].text


@batchmill.operator("speaker", kind=OperatorKind.REQUEST, cacheable=False)
class Speaker:
    """Repeats the last message of a chat, word by word; of one with tools, a word may be a call of a function."""

    def __init__(self) -> None:
        self.engine = WordEngine()
        self._lock = threading.Lock()

    def render(self, row: Mapping[str, Any], path: RowPath, failures: int) -> Sequence[Generation]:  # noqa: ARG002  # no seed
        message = row["messages"][-1]
        if message["content"] == "refuse":
            raise batchmill.RowError("I was told to refuse")
        draft = Draft((Message(message["role"], (Segment(message["content"]),)),))
        options = json.loads(row.get("options") or "{}")
        sampling = Sampling(options.get("max_tokens") or 1000)
        tools = choose_tools(options.get("tools") or (), options.get("tool_choice") or "auto")
        if tools is not None:
            draft, _ = with_tools(self.engine.limits, draft, sampling, tools)
        return (Generation(next(_numbers), self.engine.render(draft, sampling, "error"), sampling, 0),)

    def result(self, generations: Sequence[Generation], answers: Sequence[Answer]) -> dict[str, Any]:
        assert len(generations) == 1
        (answer,), form = answers, self.engine.limits.tool_format
        assert form is not None
        text, calls = read_calls(form, generations[0], answer)
        return {
            "text": text,
            "finish_reason": "tool_calls" if calls else answer.finish_reason,
            "tool_calls": [call.value() for call in calls] or None,
            "prompt_tokens": answer.prompt_tokens,
            "cached_tokens": 0,
            "generated_tokens": answer.generated_tokens,
        }

    def infer(self, _: Any) -> Any:
        raise AssertionError("rows go through the engine")

    def teardown(self) -> None:
        self.engine.close()


@batchmill.operator("patient", columns=["path"])
def patient(rows: list[dict[str, Any]]) -> list[Any]:
    """Waits for each row until its file exists; marks that it has begun; returns its process and the batch's rows."""
    for row in rows:
        Path(f"{row['path']}.begun").touch()
        while not Path(row["path"]).exists():
            time.sleep(0.002)
    return [{"pid": os.getpid(), "together": len(rows)} for _ in rows]


@batchmill.operator("unloadable")
class Unloadable:
    """Cannot be set up."""

    def setup(self, device: str) -> None:
        raise RuntimeError(f"no weights for {device}")

    def infer(self, rows: Any) -> Any:
        return rows
