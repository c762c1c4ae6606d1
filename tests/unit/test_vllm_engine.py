"""`chat` and `generate` by vLLM, with a stand-in for the library: no GPU is needed, and none has run it."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, MissingExtra, OperatorFailed
from batchmill.storage.locations import Locations
from batchmill_worker.generation.base import BegunAnswer, Draft, Generation, Message, Sampling, Segment
from batchmill_worker.generation.engine_check import answer_together
from batchmill_worker.generation.engines.vllm_engine import VllmError
from batchmill_worker.generation.selection import EngineRequest, open_engine
from batchmill_worker.models.model_memory import MIB, SlotMemory
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from support.hf_models import CONTEXT, make_language_model
from support.language_models import Shards, definition_of
from support.vllm_stand_in import Seen, install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill_worker.generation.base import Answer
    from batchmill_worker.models.ready_operator import ReadyOperator

BODIES = ["a red apple", "the sea", "my old car", "two small cats", "rain", "bread and butter"]
TABLE = pa.table({"id": list(range(len(BODIES))), "body": BODIES})
GREEDY = Sampling(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_language_model(tmp_path_factory.mktemp("models") / "small")
    for name, rank in (("german", 12), ("legal", 8)):
        (folder.parent / name).mkdir()
        (folder.parent / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
        (folder.parent / name / "adapter_model.safetensors").write_bytes(name.encode())
    return folder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return install(monkeypatch)


@contextmanager
def of(
    folder: Path,
    name: str = "chat",
    *,
    device: str = "cuda:0",
    memory: SlotMemory | None = None,
    devices: int = 1,
    device_share: float = 1.0,
    **params: Any,
) -> Iterator[ReadyOperator]:
    """An operator on a worker with that many GPUs."""
    context = SetupContext(Locations([str(folder.parent)]), memory=memory, devices=devices, device_share=device_share)
    general: dict[str, Any] = {"model": str(folder), "prompt": "Say {body}.", "max_tokens": 6, "places": 4}
    cache = OperatorCache(device, context)
    try:
        with cache.borrow(definition_of(name), general | params) as operator:
            yield operator
    finally:
        cache.close()


def ask(operator: ReadyOperator, number: int, text: str, sampling: Sampling = GREEDY, seed: int = 0) -> Generation:
    draft = Draft((Message("", (Segment(text),)),), is_chat=False)
    return Generation(number, operator.requests.engine.render(draft, sampling, "error"), sampling, seed)


def answers(operator: ReadyOperator, *generations: Generation) -> list[Answer]:
    found = answer_together(operator.requests.engine, generations, 60)
    assert not any(isinstance(answer, Exception) for answer in found), found
    return found  # type: ignore[return-value]  # as asserted


def test_rows_are_answered_on_cuda_where_it_is_installed_and_its_processes_end(folder: Path, seen: Seen) -> None:
    with of(folder, prompt="Say these words again, slowly and clearly: {body}.") as operator:
        result = Shards(operator).run(TABLE)
        backend = operator.backend()

    rows = result.table.to_pylist()
    assert [row["id"] for row in rows] == list(range(6))
    assert {row["engine"] for row in rows} == {"vllm"}
    assert {row["finish_reason"] for row in rows} == {"length"}
    assert all(row["generated_tokens"] == 6 and row["prompt_tokens"] > 10 and row["text"] for row in rows)
    assert sum(row["cached_tokens"] > 0 for row in rows) >= 4  # of the template
    assert backend is not None
    assert backend.precision == "float32"
    assert [engine.is_shut for engine in seen.engines] == [True]
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def test_a_worker_on_the_cpu_or_without_the_library_takes_transformers(folder: Path, seen: Seen) -> None:
    with of(folder, device="cpu") as operator:
        assert operator.requests.engine.name == "transformers"
    assert seen.engines == []


def test_without_the_library_it_is_refused(folder: Path) -> None:
    with pytest.raises(MissingExtra, match="needs vLLM"), of(folder, engine="vllm"):
        pass


@pytest.mark.parametrize(("stages", "tensor"), [(1, 4), (2, 2), (4, 1)])
def test_the_model_is_divided_over_the_gpus_of_the_worker(folder: Path, seen: Seen, stages: int, tensor: int) -> None:
    with of(folder, devices=4, device_share=0.5, stages=stages, context=256):
        (engine,) = seen.engines

    arguments = engine.arguments
    assert (arguments.tensor_parallel_size, arguments.pipeline_parallel_size) == (tensor, stages)
    assert arguments.distributed_executor_backend == "mp"
    assert arguments.gpu_memory_utilization == 0.45
    assert (arguments.max_model_len, arguments.max_num_seqs, arguments.enable_prefix_caching) == (256, 4, True)


def test_seeds_of_rows_and_own_options_reach_the_library(folder: Path, seen: Seen) -> None:
    table = TABLE.append_column("own", [[None, '{"temperature": 0}', None, '{"max_tokens": 3}', None, None]])
    with of(folder, temperature=0.8, seed=4, options="own") as operator:
        rows = Shards(operator).run(table).table.to_pylist()
        again = Shards(operator).run(table.slice(2, 2), [2, 3]).table.to_pylist()

    given = {tuple(tokens): params for tokens, params, _ in seen.requests[-8:-2]}
    assert sorted(params.seed or -1 for params in given.values()) == sorted(
        -1 if row["id"] == 1 else row["seed"] for row in rows
    )
    assert [row["generated_tokens"] for row in rows] == [6, 6, 6, 3, 6, 6]
    assert [row["text"] for row in again] == [row["text"] for row in rows[2:4]]


def test_rows_name_their_adapters_and_the_digest_is_that_of_all(folder: Path, seen: Seen) -> None:
    adapters = {name: str(folder.parent / name) for name in ("german", "legal")}
    options = [[None, '{"adapter": "legal"}', '{"adapter": "none"}', None, None, None]]
    table = TABLE.append_column("own", options)
    with of(folder, adapters=adapters, adapter="german", options="own") as operator:
        result = Shards(operator).run(table)
    with of(folder) as plain:
        other = Shards(plain).run(TABLE.slice(0, 1)).table.to_pylist()[0]

    rows = result.table.to_pylist()
    assert [(row.index, row.failure.message) for row in result.dead] == [(2, "there is no adapter 'none'")]
    named = [adapter and (adapter.lora_name, adapter.lora_int_id) for _, _, adapter in seen.requests]
    assert (named.count(("german", 1)), named.count(("legal", 2))) == (4, 1)
    arguments = seen.engines[0].arguments
    assert (arguments.enable_lora, arguments.max_loras, arguments.max_lora_rank) == (True, 2, 16)
    assert rows[0]["text"] != other["text"]
    assert rows[0]["model_digest"] != other["model_digest"]


def test_answers_fit_a_schema_without_free_whitespace_and_are_checked(folder: Path, seen: Seen) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    seen.tokens = [*tokenizer('{"a":1}')["input_ids"], tokenizer.eos_token_id]
    with of(folder, schema=schema, max_tokens=40) as operator:
        rows = Shards(operator).run(TABLE.slice(0, 2)).table.to_pylist()
    seen.tokens = [*tokenizer('{"a":"x"}')["input_ids"], tokenizer.eos_token_id]
    with of(folder, schema=schema, max_tokens=40) as operator:
        dead = Shards(operator).run(TABLE.slice(0, 1)).dead

    assert [row["text"] for row in rows] == ['{"a":1}'] * 2
    assert {row["finish_reason"] for row in rows} == {"stop"}
    assert [row.failure.error_type for row in dead] == ["InvalidOutput"]
    assert all(engine.arguments.structured_outputs_config.disable_any_whitespace for engine in seen.engines)


def test_likelihoods_and_stop_texts(folder: Path, seen: Seen) -> None:
    with of(folder) as operator:
        free = answers(operator, ask(operator, 100, "one two", Sampling(30)))[0]
        stop = free.text[5:8]
        stopped = answers(operator, ask(operator, 101, "one two", Sampling(30, stop=(stop,))))[0]
        likely = answers(operator, ask(operator, 102, "one two", Sampling(3, logprobs=2)))[0]

    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert "101" in seen.aborted
    assert [(one.logprob, [number for _, number in one.top]) for one in likely.logprobs] == [(-0.5, [-0.25, -0.5])] * 3
    assert "".join(one.token for one in likely.logprobs) == likely.text


def test_a_generation_that_is_aborted_returns_nothing_more(folder: Path, seen: Seen) -> None:
    with of(folder) as operator:
        engine = operator.requests.engine
        engine.submit(ask(operator, 100, "one", Sampling(400)), 0)
        while not engine.step(1.0):
            pass

        engine.abort(100)

        assert engine.stats().in_flight == 0
        assert answers(operator, ask(operator, 101, "two"))[0].generated_tokens == 6
    assert seen.aborted == ["100"]


def test_when_its_processes_die_the_rows_fail_and_the_next_load_the_model_again(folder: Path, seen: Seen) -> None:
    with of(folder) as operator:
        seen.is_dead = True
        with pytest.raises(VllmError, match="its processes have died: EngineCore"):
            answers(operator, ask(operator, 100, "one"), ask(operator, 101, "two"))
        seen.is_dead = False

        assert operator.requests.engine.stats().in_flight == 0
        assert answers(operator, ask(operator, 102, "two"))[0].generated_tokens == 6
    assert [engine.is_shut for engine in seen.engines] == [True, True]


def test_a_begun_answer_continues_as_it_would_have(folder: Path, seen: Seen) -> None:
    table = pa.table({"body": ["a cat"]})
    with of(folder, max_tokens=12) as operator:
        engine: Any = operator.requests.engine
        seen.words = [engine.encode(letter)[0] for letter in "QXZJVK"]  # which the tokenizer never joins
        (calm,) = Shards(operator).run(table).table.to_pylist()
        prompt = operator.requests.render({"body": "a cat"}, (0,), 0)[0].prompt.tokens
        tokens = engine.encode(calm["text"])
        begun = BegunAnswer(engine._tokenizer.decode(tokens[:3]), 3, engine.digest)
        (continued,) = Shards(operator).run(table, begun={0: begun}).table.to_pylist()

    asked, params, _ = seen.requests[-1]
    assert len(tokens) == calm["generated_tokens"]
    assert asked == [*prompt, *tokens[:3]]
    assert params.max_tokens == 9
    columns = ("text", "generated_tokens", "prompt_tokens", "finish_reason")
    assert [continued[name] for name in columns] == [calm[name] for name in columns]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stages": 3, "devices": 4}, "'stages' is 3, and the worker has 4 GPUs"),
        ({"stages": 2, "engine": "transformers"}, "the engine 'transformers' has no 'stages'"),
        ({"adapters": {"a": "/elsewhere"}}, "outside"),
        ({"adapter": "german"}, "has no 'adapter'"),
        ({"adapter": "german", "engine": "transformers", "device": "cpu"}, "has no 'adapter'"),
        ({"schema": {"type": "object", "title": "unknown"}}, "does not understand 'schema'"),
        ({"context": 1000}, "has a context of 512 tokens, expected 1000"),
        ({"memory": SlotMemory(MIB // 10)}, "GiB for its weights"),
    ],
)
def test_what_cannot_be_set_up_is_refused(folder: Path, seen: Seen, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParams, match=message), of(folder, **params):
        pass
    assert all(engine.is_shut for engine in seen.engines)


def test_an_adapter_without_a_rank_is_refused(folder: Path, seen: Seen) -> None:
    del seen
    with (
        pytest.raises(InvalidParams, match="the adapter 'small' cannot be read"),
        of(folder, adapters={"small": str(folder)}),
    ):
        pass


def test_a_model_that_the_library_does_not_load_is_refused(folder: Path, seen: Seen, tmp_path: Path) -> None:
    unknown = shutil.copytree(folder, tmp_path / "unknown")
    with pytest.raises(OperatorFailed, match=r"vLLM cannot load .*: model type unknown"):
        open_engine(
            EngineRequest("chat", str(unknown), context=CONTEXT),
            SetupContext(Locations([str(tmp_path)])),
            "cuda:0",
            samples=False,
        )
    assert seen.engines == []
