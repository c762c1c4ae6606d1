"""`chat` and `generate` by OpenVINO, with a small model that the test makes and converts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, OperatorFailed
from batchmill_worker.generation.base import Draft, Generation, Message, Sampling, Segment
from batchmill_worker.generation.engine_check import answer_together
from batchmill_worker.generation.engines.openvino_engine import OpenVinoError
from batchmill_worker.models.model_memory import MIB, SlotMemory
from support.hf_models import CONTEXT, make_language_model
from support.language_models import Shards, loaded
from support.openvino_models import make_openvino_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from batchmill_worker.generation.base import Answer, Delta
    from batchmill_worker.models.ready_operator import ReadyOperator

pytestmark = pytest.mark.models
BODIES = ["a red apple", "the sea", "my old car", "two small cats", "rain", "bread and butter"]
TABLE = pa.table({"id": list(range(len(BODIES))), "body": BODIES})
GREEDY = Sampling(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_openvino_model(tmp_path_factory.mktemp("models") / "small")


def of(folder: Path, name: str = "chat", **params: Any) -> AbstractContextManager[ReadyOperator]:
    general: dict[str, Any] = {"model": str(folder), "prompt": "Say {body}.", "max_tokens": 6, "context": CONTEXT}
    return loaded(name, folder.parent, **(general | params))


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[ReadyOperator]:
    """An operator that is shared by the tests of this module."""
    with of(folder, on_long="cut_middle") as operator:
        yield operator


def ask(operator: ReadyOperator, number: int, text: str, sampling: Sampling = GREEDY, seed: int = 0) -> Generation:
    engine = operator.requests.engine
    draft = Draft((Message("", (Segment(text),)),), is_chat=False)
    return Generation(number, engine.render(draft, sampling, "error"), sampling, seed)


def answers(operator: ReadyOperator, *generations: Generation) -> list[Answer]:
    found = answer_together(operator.requests.engine, generations, 60)
    assert not any(isinstance(answer, Exception) for answer in found)
    return found  # type: ignore[return-value]  # as asserted


def test_rows_are_answered_as_transformers_does_and_the_engine_is_chosen_by_the_folder(
    folder: Path, small: ReadyOperator
) -> None:
    result = Shards(small).run(TABLE)
    with of(folder, engine="transformers", threads=None) as other:
        expected = Shards(other).run(TABLE).table.to_pylist()

    rows = result.table.to_pylist()
    assert {row["engine"] for row in rows} == {"openvino"}
    columns = ("id", "text", "prompt_tokens", "generated_tokens", "finish_reason")
    assert [[row[name] for name in columns] for row in rows] == [[row[name] for name in columns] for row in expected]
    assert all(row["generated_tokens"] == 6 and row["text"] and row["seed"] is not None for row in rows)


def test_a_row_of_a_batch_has_the_answer_that_it_has_alone_greedy_and_seeded(small: ReadyOperator) -> None:
    chance = Sampling(6, temperature=1.5, top_p=0.9)
    asked = [("one two", GREEDY, 0), ("three four", chance, 7), ("five six", chance, 8), ("seven", GREEDY, 0)]
    alone = [answers(small, ask(small, 100 + place, *one))[0].text for place, one in enumerate(asked)]

    together = answers(small, *(ask(small, 200 + place, *one) for place, one in enumerate(asked)))
    other = answers(small, ask(small, 300, "three four", chance, 9))[0]

    assert [answer.text for answer in together] == alone
    assert other.text != alone[1]


def test_the_text_comes_in_pieces_and_the_parts_of_a_long_prompt_are_progress(small: ReadyOperator) -> None:
    engine = small.requests.engine
    asked = ask(small, 400, " ".join(f"On day {number} the sun rose." for number in range(12)))
    engine.submit(asked, 0)
    deltas: list[Delta] = []
    while not deltas or not deltas[-1].is_end:
        deltas += engine.step(1.0)

    answer = deltas[-1].answer
    assert answer is not None
    assert len(deltas) >= answer.generated_tokens == 6
    assert "".join(delta.text for delta in deltas) == answer.text
    assert engine.stats().in_flight == 0


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(small: ReadyOperator) -> None:
    free = answers(small, ask(small, 500, "one two", Sampling(40)))[0]
    stop = free.text[5:8]

    stopped = answers(small, ask(small, 501, "one two", Sampling(40, stop=(stop,))))[0]

    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.generated_tokens < free.generated_tokens
    assert answers(small, ask(small, 502, "one two"))[0].generated_tokens == 6  # the engine is free again


def test_a_generation_that_is_aborted_returns_nothing_more(small: ReadyOperator) -> None:
    engine = small.requests.engine
    engine.submit(ask(small, 600, "one", Sampling(400)), 0)
    engine.step(1.0)

    engine.abort(600)

    assert engine.stats().in_flight == 0
    assert answers(small, ask(small, 601, "two"))[0].generated_tokens == 6


def test_an_engine_that_fails_says_so_and_answers_others_afterwards(small: ReadyOperator) -> None:
    engine: Any = small.requests.engine
    engine.submit(ask(small, 700, "one"), 0)

    class Broken:
        def step(self) -> None:
            raise RuntimeError("no more memory")

    engine._pipeline = Broken()
    with pytest.raises(OpenVinoError, match="no more memory"):
        engine.step(0.1)

    assert answers(small, ask(small, 701, "two"))[0].generated_tokens == 6


def test_a_begun_answer_continues_as_it_would_have(small: ReadyOperator) -> None:
    calm = answers(small, ask(small, 800, "one two Q"))[0]
    tokens = small.requests.engine.encode(calm.text)
    begun = replace(ask(small, 801, "one two Q"), begun_text=calm.text[:3], begun_tokens=tokens[:3])

    assert len(tokens) == calm.generated_tokens
    assert answers(small, begun) == [calm]


def test_a_prompt_that_is_too_long_is_cut_or_refused_here(small: ReadyOperator) -> None:
    long = " ".join(f"word{number}" for number in range(400))
    prompt = small.requests.render({"body": long}, (0,), 0)[0].prompt

    assert len(prompt.tokens) <= CONTEXT - 6
    assert prompt.tokens_cut > 300


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"schema": {"type": "object"}}, "has no 'schema'"),
        ({"logprobs": 2}, "has no 'logprobs'"),
        ({"context": 1000}, "has a context of 512 tokens, expected 1000"),
        ({"engine": "llamacpp"}, "names no model for llama.cpp"),
    ],
)
def test_what_it_lacks_is_refused(folder: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParams, match=message), of(folder, **params):
        pass


def test_a_folder_in_another_form_is_refused(tmp_path: Path) -> None:
    folder = make_language_model(tmp_path / "plain")
    with pytest.raises(InvalidParams, match=r"it has no openvino_model\.xml"), of(folder, engine="openvino"):
        pass


@pytest.mark.parametrize(
    ("memory", "places", "message"),
    [
        (SlotMemory(100_000), 4, "Use a smaller"),
        (SlotMemory(12 * MIB), 256, "Lower 'places' or 'context': their product may be up to"),
    ],
)
def test_a_model_that_needs_more_memory_than_there_is_is_refused_before_it_is_loaded(
    folder: Path, memory: SlotMemory, places: int, message: str
) -> None:
    with (
        pytest.raises(InvalidParams, match=r"GiB for its weights") as refused,
        loaded("chat", folder.parent, memory=memory, model=str(folder), prompt="{body}", max_tokens=6, places=places),
    ):
        pass
    assert message in f"{refused.value.message} {refused.value.hint}"


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "openvino_model.xml").write_text("<net>")

    with pytest.raises(OperatorFailed, match="OpenVINO cannot load"), of(broken):
        pass
